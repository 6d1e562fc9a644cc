"""An env looked over before anybody trains on it: its faults, what a small model makes of it, and what to train."""

from mbrl_wrappers.zoo.doctor.examination import Examination, examine
from mbrl_wrappers.zoo.doctor.findings import Finding

__all__ = ["Examination", "Finding", "examine"]
