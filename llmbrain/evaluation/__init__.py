"""How well a model does: losses of tokens, minimal pairs, multiple choice, generated text, lm-eval tasks."""

from .generation import GeneratedText, generate_texts, text_metrics
from .harness import harness
from .losses import ScoredSequence, sequence_losses, token_losses
from .minimal_pairs import minimal_pairs
from .multiple_choice import Question, load_questions, multiple_choice, parse_answer, score_answers
from .perplexity import perplexity, perplexity_report

__all__ = [
    "GeneratedText",
    "Question",
    "ScoredSequence",
    "generate_texts",
    "harness",
    "load_questions",
    "minimal_pairs",
    "multiple_choice",
    "parse_answer",
    "perplexity",
    "perplexity_report",
    "score_answers",
    "sequence_losses",
    "text_metrics",
    "token_losses",
]
