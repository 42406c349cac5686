"""DeepSpeed's settings, the precision `auto` and the optimizer in a training's config."""

import pytest

from s2l_ray.config import TrainingConfig
from s2l_ray.pipeline.identity import settings_of
from s2l_ray.pipeline.targets import check_target
from s2l_ray.training.engines.settings import deepspeed_settings


def training(**changes):
    return TrainingConfig.model_validate({"model": {"name": "m"}} | changes)


def test_settings_are_merged_over_ours():
    theirs = {
        "zero_optimization": {
            "stage3_prefetch_bucket_size": 7,
            "offload_optimizer": {"ratio": 0.5},
        },
        "wall_clock_breakdown": True,
    }
    config = training(zero_stage=3, offload_optimizer=True, deepspeed=theirs)
    found = deepspeed_settings(config, 1)
    assert found["zero_optimization"] == {
        "stage": 3,
        "stage3_gather_16bit_weights_on_model_save": True,
        "stage3_prefetch_bucket_size": 7,
        "offload_optimizer": {"device": "cpu", "ratio": 0.5},
    }
    assert found["wall_clock_breakdown"] is True
    assert found["train_batch_size"] == 128
    assert config.deepspeed == theirs  # not changed by the merge


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"train_batch_size": 8}, "train_batch_size: leave it out, and set global_batch_size"),
        ({"gradient_clipping": 1.0}, "gradient_clipping: leave it out, and set max_grad_norm"),
        ({"bf16": {"enabled": True}}, "bf16: leave it out, and set model.dtype"),
        (
            {"zero_optimization": {"stage": 2}},
            "zero_optimization.stage: leave it out, and set zero",
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}},
            "zero_optimization.offload_optimizer.device: leave it out, and set offload_optimizer",
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"ratio": 0.5}}},
            "zero_optimization.offload_optimizer: set offload_optimizer: true beside it",
        ),
        ({"steps_per_print": 5}, "steps_per_print: leave it out: the loss is shown"),
        (
            {"zero_optimisation": {"stage": 2}},
            "zero_optimisation: there is no such setting; nearest valid name: zero_optimization",
        ),
        ({"zero_optimization": 3}, "zero_optimization: expected settings by name, got 3"),
    ],
)
def test_what_another_field_sets_is_refused_by_name(settings, told):
    with pytest.raises(ValueError) as refused:
        training(zero_stage=3, deepspeed=settings)
    assert f"deepspeed.{told}" in str(refused.value)


@pytest.mark.parametrize(
    "setting, told",
    [
        (
            {"stage3_prefetch_bucket": 1},
            r"stage3_prefetch_bucket: .*Extra inputs",
        ),
        ({"reduce_bucket_size": "many"}, r"reduce_bucket_size: .*valid integer"),
    ],
)
def test_what_deepspeed_refuses_is_told_before_the_proxy_is_trained(setting, told):
    check_target(training(zero_stage=3, deepspeed={"zero_optimization": {"overlap_comm": True}}))
    with pytest.raises(ValueError, match=rf"^deepspeed\.zero_optimization\.{told}"):
        check_target(training(zero_stage=3, deepspeed={"zero_optimization": setting}))


def test_deepspeed_s_settings_need_deepspeed():
    with pytest.raises(ValueError, match="deepspeed needs zero_stage"):
        training(deepspeed={"dump_state": True})


def test_auto_is_told_in_the_fingerprint_as_what_it_means():
    def of(dtype, gpus):
        workers = {"gpus_per_worker": gpus}
        return training(model={"name": "m", "dtype": dtype}, workers=workers)

    assert [of("auto", gpus).dtype for gpus in (0, 1)] == ["float32", "bfloat16"]
    for gpus, same in ((0, "float32"), (1, "bfloat16")):
        assert settings_of(of("auto", gpus)) == settings_of(of(same, 0))
    with pytest.raises(ValueError, match="zero_stage 0 needs dtype float32"):
        training(model={"name": "m", "dtype": "auto"}, zero_stage=0,
                 workers={"gpus_per_worker": 1})  # fmt: skip


def test_new_settings_at_their_defaults_change_no_fingerprint():
    [settings] = settings_of(training())
    assert not {"deepspeed", "optimizer"} & settings.keys()
    [settings] = settings_of(training(zero_stage=2, deepspeed={"dump_state": True}))
    assert settings["deepspeed"] == {"dump_state": True}


def test_8_bit_adamw_is_for_ddp():
    with pytest.raises(ValueError, match="optimizer adamw_8bit needs DDP: leave out zero_stage"):
        training(optimizer="adamw_8bit", zero_stage=2)
