"""Sharing: how tasks share a network, one architecture a file."""

from plait.networks.base import Sharing
from plait.sharing.adatt import AdaTT
from plait.sharing.aitm import Aitm
from plait.sharing.cgc import Cgc
from plait.sharing.cross_stitch import CrossStitch
from plait.sharing.dbmtl import Dbmtl
from plait.sharing.dselect_k import DSelectK
from plait.sharing.dsmtl import Dsmtl
from plait.sharing.dtrn import Dtrn
from plait.sharing.enforced_routing import EnforcedRouting
from plait.sharing.esmm import Esmm, conditional
from plait.sharing.hard import Hard
from plait.sharing.hmtl import Hmtl
from plait.sharing.home import Home
from plait.sharing.ltb import Ltb, branches
from plait.sharing.m3vit import M3Vit
from plait.sharing.medusa import Medusa
from plait.sharing.meo import Meo
from plait.sharing.metaheac import Metaheac
from plait.sharing.mmoe import Mmoe
from plait.sharing.mmoeex import Mmoeex, diversity
from plait.sharing.moore import Moore
from plait.sharing.mt_tag import MtTag
from plait.sharing.mtan import Mtan
from plait.sharing.nddr import Nddr
from plait.sharing.pepnet import Pepnet
from plait.sharing.ple import Ple
from plait.sharing.sluice import Sluice
from plait.sharing.stem import Stem
from plait.sharing.task_expert import TaskExpert
from plait.sharing.task_level_moe import TaskLevelMoe
from plait.sharing.use import ExpertUse, expert_use

__all__ = [
    "AdaTT",
    "Aitm",
    "Cgc",
    "CrossStitch",
    "DSelectK",
    "Dbmtl",
    "Dsmtl",
    "Dtrn",
    "EnforcedRouting",
    "Esmm",
    "ExpertUse",
    "Hard",
    "Hmtl",
    "Home",
    "Ltb",
    "M3Vit",
    "Medusa",
    "Meo",
    "Metaheac",
    "Mmoe",
    "Mmoeex",
    "Moore",
    "MtTag",
    "Mtan",
    "Nddr",
    "Pepnet",
    "Ple",
    "Sharing",
    "Sluice",
    "Stem",
    "TaskExpert",
    "TaskLevelMoe",
    "branches",
    "conditional",
    "diversity",
    "expert_use",
]
