"""Localizers: neurons that respond more to one kind of stimulus than to another."""
