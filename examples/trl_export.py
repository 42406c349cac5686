"""Train with TRL on an export, without Ray.

    s2l-ray select my.yaml selection.export=[trl_messages]
    python examples/trl_export.py EXPORT Qwen/Qwen2.5-0.5B-Instruct trained/

EXPORT is the folder that the first command prints.
"""

import sys
from typing import Any

from datasets import load_dataset
from trl import SFTConfig, SFTTrainer


def main(export: str, model: str, output: str, **settings: Any) -> SFTTrainer:
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(output, assistant_only_loss=True, **settings),  # answers alone are learned
        train_dataset=load_dataset(export, split="train"),
    )
    trainer.train()
    trainer.save_model(output)
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:])
