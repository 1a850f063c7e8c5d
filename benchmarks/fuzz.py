"""Feed what strangers may send into every reader: a right result or one sentence comes out, no traceback and no hang.

python benchmarks/fuzz.py                          2,000 examples of each kind
python benchmarks/fuzz.py --kinds weights --examples 200
"""

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from _fuzz_data import fuzz_manifest, fuzz_npz, fuzz_options
from _fuzz_files import fuzz_images, fuzz_weights
from _fuzz_outcomes import OUTCOMES, promised
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lightning_xai.cli import components, run_folder  # noqa: F401  # they register the resolvers that configs use
from lightning_xai.cli.errors import sentence_of
from lightning_xai.cli.overrides import check_overrides
from lightning_xai.cli.trust import ALLOW, check_command_line

CONFIGS = Path(__file__).parents[1] / "configs"

# ------------------------------------------------------------------ overrides

GROUPS = sorted(path.name for path in CONFIGS.iterdir() if path.is_dir())
KEYS = st.sampled_from(
    ["seed", "data.size", "explainer.lr", "trainer.max_epochs", "name", "allow", "hydra.run.dir", *GROUPS]
)
ODD_VALUE = st.text(st.sampled_from("ab1.,:=[]{}()$'\"\\ \n-~+*|é\0"), max_size=12)
KNOWN_VALUE = st.sampled_from(
    [
        "1",
        "null",
        "[1,2]",
        "{a: 1}",
        "${seed}",
        "${nonsense}",
        "${oc.env:NO_SUCH}",
        "${oc.decode:x}",
        "???",
        "1,2",
        "x" * 5000,
    ]
)
CHOICE = st.sampled_from(["pcim", "digits", "default", "none", "fast_dev_run", "demo", "_base", "../train", "glob(*)"])


def fuzz_overrides(folder: Path) -> Callable[[], None]:
    """Command lines of odd words."""
    word = st.builds(
        "{}{}{}{}".format,
        st.sampled_from(["", "", "", "+", "++", "~", "-"]),
        KEYS | st.text(st.sampled_from("abc./@_-=é"), max_size=8),
        st.sampled_from(["=", "=", "=", "", "==", ":"]),
        KNOWN_VALUE | CHOICE | ODD_VALUE,
    )

    @given(
        st.lists(
            word | st.sampled_from(["-m", "--cfg=job", "-cn=x", "--multirun", "--nonsense"]), min_size=1, max_size=3
        )
    )
    def run(words: list[str]) -> None:
        os.environ[ALLOW] = ""
        with promised():
            try:
                check_overrides(words, CONFIGS)
                check_command_line(words, CONFIGS, "train")
                with initialize_config_dir(str(CONFIGS), version_base="1.3"):
                    OmegaConf.to_yaml(compose("train", words))
            except SystemExit as stop:  # of the parser of flags, which has its own words
                assert stop.code != 0
            except Exception as error:
                # Hydra's own errors: the gate makes a sentence of them.
                raise ValueError((sentence_of(error) or "").removeprefix("train.py: ")) from error

    return run


# ------------------------------------------------------------------ run

KINDS: dict[str, Callable[[Path], Callable[[], None]]] = {
    "manifest": fuzz_manifest,
    "npz": fuzz_npz,
    "options": fuzz_options,
    "weights": fuzz_weights,
    "overrides": fuzz_overrides,
    "images": fuzz_images,
}


def fuzz(kind: str, examples: int, folder: Path, start: int | None = None) -> dict[str, int]:
    """Run examples of a kind.

    Args:
        kind: A key of :data:`KINDS`.
        examples: How many.
        folder: An empty folder for their files.
        start: Seed of hypothesis; ``None``: the same examples each time.

    Returns:
        How many ended with a right result and how many with a sentence.

    Raises:
        AssertionError: If one ended otherwise; hypothesis prints the smallest such example.
    """
    OUTCOMES.clear()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checks = settings(
                max_examples=examples,
                deadline=None,
                database=None,
                derandomize=start is None,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            )
            test = checks(KINDS[kind](folder))
            (test if start is None else seed(start)(test))()
    finally:
        logging.disable(logging.NOTSET)
    return dict(OUTCOMES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--seed", type=int, default=None, help="other examples; without it they are the same each time")
    args = parser.parse_args()
    for kind in args.kinds:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = fuzz(kind, args.examples, Path(folder), args.seed)
        print(json.dumps({"kind": kind, **found, "seconds": round(time.monotonic() - start)}), flush=True)


if __name__ == "__main__":
    main()
