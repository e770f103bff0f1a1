"""The names of the data formats, with the facts that the configuration checks. `ovt_ray.data.formats` reads the data."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A way in which problems are stored."""

    path_is: str
    """Description of `data.path`, for a person."""
    has_eval_split: bool
    """Whether the data have a held-out split. Without it, some problems of the train split are held out."""


TABLE = "a file of Parquet, JSON or JSON lines"
FORMATS: dict[str, Format] = {
    "jsonl": Format(path_is="a file of JSON lines, one problem each", has_eval_split=False),
    "parquet": Format(path_is="a Parquet file, or a folder of them", has_eval_split=False),
    "easyr1": Format(path_is=f"{TABLE}, or a folder of them", has_eval_split=False),
    "verl": Format(path_is=f"{TABLE}, or a folder of them", has_eval_split=False),
    "llama_factory": Format(path_is=TABLE, has_eval_split=False),
    "hub": Format(path_is="a hub name, or a folder that `datasets` opens: NAME or NAME:SPLIT", has_eval_split=False),
    "ai2d": Format(path_is="the folder ai2d", has_eval_split=True),
    "clevr": Format(path_is="the folder CLEVR_v1.0", has_eval_split=True),
    "figureqa": Format(path_is="the folder of its parts", has_eval_split=True),
    "geometry3k": Format(path_is="the folder of train, val and test", has_eval_split=True),
    "geos": Format(path_is="a folder of problems' folders", has_eval_split=False),
    "iconqa": Format(path_is="the folder iconqa_data", has_eval_split=True),
    "mapqa": Format(path_is="the folder of one subset", has_eval_split=True),
    "scienceqa": Format(path_is="the folder of ScienceQA's repository", has_eval_split=True),
    "super_clevr": Format(path_is="the folder of its questions and images", has_eval_split=True),
    "tabmwp": Format(path_is="the folder of TabMWP's repository", has_eval_split=True),
    "vizwiz": Format(path_is="the folder of Annotations, train and val", has_eval_split=True),
    "hallusionbench": Format(path_is="the folder of HallusionBench's repository", has_eval_split=True),
    "mathvision": Format(path_is="the folder of MathVision's repository", has_eval_split=True),
    "mathvista": Format(path_is="the folder of MathVista's repository", has_eval_split=True),
    "mmmu": Format(path_is=f"{TABLE}, or a folder of them", has_eval_split=True),
}
