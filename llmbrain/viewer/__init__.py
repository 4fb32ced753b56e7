"""A local page on which a study can be explored: type a text and watch, lesion, look at maps, label networks.

``server`` starts the page; ``contents`` reads the study, ``reading`` reads new texts, ``playground`` lesions,
``work`` runs the model in one thread, ``security`` guards every request. The page itself is in ``static``. Importing
this package imports no server: it needs the extra ``view``.
"""
