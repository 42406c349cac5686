"""Examples tokenized for a model, declared: of the corpus, of a subset, of held-out examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from s2l_ray.config import ModelConfig, PromptConfig
from s2l_ray.corpus.families import template_text
from s2l_ray.pipeline.identity import prompt_settings, tokenizer_folder
from s2l_ray.pipeline.stage import Stage, alone
from s2l_ray.pipeline.told import check_tokenizer_kept, check_tokens
from s2l_ray.store import Manifest

if TYPE_CHECKING:
    from s2l_ray.pipeline.plan import Plan
    from s2l_ray.pipeline.run import Run


def tokens_of(
    plan: Plan, name: str, examples: Stage, model: ModelConfig, prompt: PromptConfig, what: str
) -> Stage:
    """Declare examples tokenized for a model, whose tokenizer is prepared first.

    what: for the progress line.
    """

    def make(run: Run, **where: Any) -> Manifest:
        from s2l_ray.corpus.tokenization import tokenize

        where |= {"prompt": prompt, "label": f"tokenize {what}"}
        where["tokenizer_folder"] = prepare_tokenizer(plan, run, model, prompt).folder
        return tokenize(run.store, run.get(examples), **where)

    def check(run: Run, tokens: Manifest) -> None:
        check_tokens(name, run, tokens)
        check_tokenizer_kept(run, tokens, prepare_tokenizer(plan, run, model, prompt))

    return Stage(
        name,
        alone(make),
        inputs=(examples,),
        settings=(
            tokenizer_folder(plan.first.corpus.identity, model, prompt),
            prompt_settings(prompt),
        ),
        reads=(plan.first.corpus,),
        check=check,
    )


def prepare_tokenizer(plan: Plan, run: Run, model: ModelConfig, prompt: PromptConfig) -> Manifest:
    """Make a model's tokenizer available in the run directory, with the chat template of the
    prompt; return its manifest. ValueError for a model that cannot be used."""
    from s2l_ray.corpus.tokenizer import prepare_tokenizer

    given = prompt.chat_template
    return prepare_tokenizer(
        run.store,
        model,
        run.get(plan.first.corpus),
        folder=tokenizer_folder(plan.first.corpus.identity, model, prompt),
        chat_template=None if given is None else template_text(given),
    )
