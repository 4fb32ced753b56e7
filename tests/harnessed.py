"""A task of lm-eval in a folder, which needs no download."""

import json

_TASK = """task: cats
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: '{{{{question}}}}'
doc_to_choice: '{{{{options}}}}'
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def cats(folder, n=6):
    """Write the task ``cats`` into a folder; its manager, and its questions."""
    from lm_eval.tasks import TaskManager

    rows = [{"question": f"The cat number {i} sat", "options": ["on", "under"], "answer": i % 2} for i in range(n)]
    (folder / "q.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "cats.yaml").write_text(_TASK.format(file=folder / "q.jsonl"))
    return TaskManager(include_path=str(folder), include_defaults=False), rows
