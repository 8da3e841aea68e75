"""Tasks: seeded generators and scorers in numpy alone, so that a demo and an evaluation need no torch."""

from ntm_models.tasks.associative_recall import AssociativeRecall
from ntm_models.tasks.copy import Copy
from ntm_models.tasks.copy_reuse import CopyReuse
from ntm_models.tasks.dyck import DyckWords
from ntm_models.tasks.encodings import (
    CopySeries,
    EndedCopy,
    MarkersFirstCopy,
    StartedCopy,
    UnaryRepeatCopy,
    WideAssociativeRecall,
    WideCopy,
)
from ntm_models.tasks.entity_tracking import EntityTracking
from ntm_models.tasks.episode import Episodes
from ntm_models.tasks.few_shot import FewShotLabels
from ntm_models.tasks.flows import Flows
from ntm_models.tasks.key_value import KeyValueStore
from ntm_models.tasks.ngrams import DynamicNGrams
from ntm_models.tasks.priority_sort import PrioritySort
from ntm_models.tasks.repeat_copy import RepeatCopy
from ntm_models.tasks.retrieval import Retrieval
from ntm_models.tasks.reverse import Reversal
from ntm_models.tasks.sightings import Sightings
from ntm_models.tasks.speakers import Speakers
from ntm_models.tasks.task import OUTPUT, Task, tensors_of
from ntm_models.tasks.tones import Tones

TASKS: dict[str, type[Task]] = {
    "copy": Copy,
    "repeat-copy": RepeatCopy,
    "associative-recall": AssociativeRecall,
    "dynamic-ngrams": DynamicNGrams,
    "priority-sort": PrioritySort,
    "dyck-words": DyckWords,
    "copy-reuse": CopyReuse,
    # What families show.
    "few-shot": FewShotLabels,
    "entity-tracking": EntityTracking,
    "key-value": KeyValueStore,
    "reversal": Reversal,
    "sightings": Sightings,
    "retrieval": Retrieval,
    "flows": Flows,
    "speakers": Speakers,
    "tones": Tones,
    # As other programs encode them.
    "copy-ended": EndedCopy,
    "copy-started": StartedCopy,
    "copy-markers-first": MarkersFirstCopy,
    "copy-wide": WideCopy,
    "copy-series": CopySeries,
    "repeat-copy-unary": UnaryRepeatCopy,
    "associative-recall-wide": WideAssociativeRecall,
}

__all__ = [
    "OUTPUT",
    "TASKS",
    "AssociativeRecall",
    "Copy",
    "CopyReuse",
    "CopySeries",
    "DyckWords",
    "DynamicNGrams",
    "EndedCopy",
    "EntityTracking",
    "Episodes",
    "FewShotLabels",
    "Flows",
    "KeyValueStore",
    "MarkersFirstCopy",
    "PrioritySort",
    "RepeatCopy",
    "Retrieval",
    "Reversal",
    "Sightings",
    "Speakers",
    "StartedCopy",
    "Task",
    "Tones",
    "UnaryRepeatCopy",
    "WideAssociativeRecall",
    "WideCopy",
    "tensors_of",
]
