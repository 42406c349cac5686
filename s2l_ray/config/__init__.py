"""The configuration of a run: typed, validated models, read from YAML and overrides.

Imports neither numpy, ray nor torch, so a mistake is reported in well under a second.
"""

from s2l_ray.config.base import Section
from s2l_ray.config.corpus import CorpusConfig, PromptConfig
from s2l_ray.config.evaluation import (
    CompareConfig,
    DiagnoseConfig,
    EvaluationConfig,
    ReportConfig,
)
from s2l_ray.config.identity import fingerprint
from s2l_ray.config.inspection import Setting, resolve, schema
from s2l_ray.config.loading import load, validate
from s2l_ray.config.models import LoraConfig, ModelConfig, WorkersConfig
from s2l_ray.config.run import RunConfig
from s2l_ray.config.selection import (
    ClustersConfig,
    LossesConfig,
    NearDuplicatesConfig,
    SelectionConfig,
    TrajectoriesConfig,
)
from s2l_ray.config.storage import LONGEST_LEASE, StorageConfig
from s2l_ray.config.training import TrainingConfig
from s2l_ray.config.values import (
    BASELINE,
    BUILT_IN_SELECTORS,
    RACE,
    Budget,
    SelectorName,
    alpha_of,
    parse_budget,
)

__all__ = [
    "BASELINE",
    "BUILT_IN_SELECTORS",
    "LONGEST_LEASE",
    "RACE",
    "Budget",
    "ClustersConfig",
    "CompareConfig",
    "CorpusConfig",
    "DiagnoseConfig",
    "EvaluationConfig",
    "LoraConfig",
    "LossesConfig",
    "ModelConfig",
    "NearDuplicatesConfig",
    "PromptConfig",
    "ReportConfig",
    "RunConfig",
    "Section",
    "SelectionConfig",
    "SelectorName",
    "Setting",
    "StorageConfig",
    "TrainingConfig",
    "TrajectoriesConfig",
    "WorkersConfig",
    "alpha_of",
    "fingerprint",
    "load",
    "parse_budget",
    "resolve",
    "schema",
    "validate",
]
