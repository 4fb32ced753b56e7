"""Measures of a model: token losses, perplexity, minimal pairs, multiple choice, generated text, lm-eval tasks."""

from .generation import GeneratedText, generate_texts, text_metrics
from .harness import harness
from .losses import token_losses, window_losses
from .minimal_pairs import minimal_pairs
from .multiple_choice import Question, load_questions, multiple_choice, parse_answer
from .perplexity import perplexity, perplexity_report

__all__ = [
    "GeneratedText",
    "Question",
    "generate_texts",
    "harness",
    "load_questions",
    "minimal_pairs",
    "multiple_choice",
    "parse_answer",
    "perplexity",
    "perplexity_report",
    "text_metrics",
    "token_losses",
    "window_losses",
]
