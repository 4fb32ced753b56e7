"""Tasks of EleutherAI's lm-evaluation-harness on a loaded model (needs ``llmbrain[eval]``)."""

from ..exceptions import LLMBrainError, ParameterError
from ..models.finite import check_weights, finite_logits
from ..models.hooks import evaluating


def harness(model, tokenizer, tasks, *, limit=None, num_fewshot=None, batch_size=8, task_manager=None, **options):
    """Run tasks of lm-eval on a loaded model.

    The tasks run on this model object, so an active lesion affects them::

        with lesion(model, mask):
            table = harness(model, tokenizer, ["arc_easy"], limit=200)

    Parameters
    ----------
    model : transformers causal language model
    tokenizer : transformers tokenizer
    tasks : str or list of str
        Task names of lm-eval, or paths of task files.
    limit : int, optional
        Use only the first ``limit`` items of each task, for a first look. Do not report such numbers.
    num_fewshot : int, optional
    batch_size : int
    task_manager : lm_eval.tasks.TaskManager, optional
        For your own tasks.
    **options
        Passed to ``lm_eval.simple_evaluate``.

    Returns
    -------
    pandas.DataFrame
        ``task, metric, filter, value, stderr, higher_is_better, n, version, lm_eval``.

    Raises
    ------
    LLMBrainError
        If lm-eval is not installed, or returns no number.
    NumericalError
        If logits are not finite: lm-eval would choose an answer all the same.
    """
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise LLMBrainError("This needs lm-eval. Install it with: pip install 'llmbrain[eval]'") from error
    import pandas as pd

    tasks = [tasks] if isinstance(tasks, str) else list(tasks)
    if not tasks:
        raise ParameterError("tasks is empty. Name at least one task of lm-eval.")
    check_weights(model)
    live = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    given = {"limit": limit, "num_fewshot": num_fewshot, "task_manager": task_manager, "bootstrap_iters": 1000}
    try:
        with evaluating(model), finite_logits(model):
            found = lm_eval.simple_evaluate(model=live, tasks=tasks, **{**given, **options})
    except KeyError as error:  # of a name that it does not know
        raise ParameterError(
            f"lm-eval cannot run {', '.join(tasks)} ({error.args[0]}). Its tasks are listed by: lm-eval ls tasks"
        ) from error
    rows = []
    for task, values in found["results"].items():
        better, count = found.get("higher_is_better", {}).get(task, {}), found.get("n-samples", {}).get(task, {})
        for key, value in values.items():
            metric, _, filter_name = key.partition(",")
            if not filter_name or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            rows.append(
                {
                    "task": task,
                    "metric": metric,
                    "filter": filter_name,
                    "value": float(value),
                    "stderr": values.get(f"{metric}_stderr,{filter_name}"),
                    "higher_is_better": better.get(metric),
                    "n": count.get("effective"),
                    "version": found.get("versions", {}).get(task),
                    "lm_eval": lm_eval.__version__,
                }
            )
    frame = pd.DataFrame(rows)
    if frame.empty:
        raise LLMBrainError(f"lm-eval returned no number for {', '.join(tasks)}.")
    frame["stderr"] = pd.to_numeric(frame["stderr"], errors="coerce")  # lm-eval writes "N/A" if there is none
    return frame
