"""How well a model does: losses of tokens, minimal pairs, multiple choice, generated text, lm-eval tasks."""

from .losses import ScoredSequence, sequence_losses, token_losses
from .perplexity import perplexity, perplexity_report

__all__ = ["ScoredSequence", "perplexity", "perplexity_report", "sequence_losses", "token_losses"]
