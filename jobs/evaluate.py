"""Loss and exact match of the tuned target: python jobs/evaluate.py CONFIG.yaml [key=value …]"""

import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # see select.py

from s2l_ray import cli
from s2l_ray.config import RunConfig


def work(config: RunConfig) -> None:
    from s2l_ray.pipeline import subset as pipeline
    from s2l_ray.pipeline import targets
    from s2l_ray.pipeline.run import Run

    def evaluate(run: Run) -> dict[str, Any]:
        pipeline.prepare(run)
        targets.prepare_evaluation(run)
        target, name = targets.finetune_selected(run)
        return targets.evaluate(run, {name: target})[name]

    with Run.start(config) as run:
        result = run.finish(evaluate)
    for source, loss in result["by_source"].items():
        print(f"{loss:8.4f}  {source}")
    print(f"{result['loss']:8.4f}  all, nats per response token, {result['label_tokens']:,} tokens")
    print(f"{result['macro']:8.4f}  mean over sources")
    if "answer_loss" in result:
        print(
            f"{result['answer_loss']:8.4f}  after {config.evaluation.answer_marker!r}, "
            f"{result['answer_label_tokens']:,} tokens, "
            f"{result['answer_left_out']:,} examples without it"
        )
    for name, of in result.get("exact_match", {}).items():
        print(
            f"{of['correct'] / of['questions']:8.1%}  {name}: {of['correct']:,} correct of "
            f"{of['questions']:,} questions ({of['of']:,} in the set), "
            f"{of['no_answer']:,} without an answer"
        )
    for sentence in result["left_out"]:
        print(sentence)


if __name__ == "__main__":
    cli.main(
        "Evaluate the fine-tuned target on held-out examples and questions.",
        work,
        needs_target=True,
        needs_heldout=True,
    )
