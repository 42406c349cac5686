"""An Axolotl plugin that records each example's loss, for `s2l-ray import-losses`.

In Axolotl's configuration, with this file in the folder that `axolotl train` is called from:

    plugins: [recorder.Recorder]
"""

from axolotl.integrations.base import BasePlugin

from s2l_ray.record import LossRecorder


class Recorder(BasePlugin):
    def add_callbacks_post_trainer(self, cfg, trainer):
        return [LossRecorder(f"{cfg.output_dir}/losses", dataset=trainer.train_dataset)]
