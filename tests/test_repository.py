"""What pages, configs and comments name exists, links lead somewhere, and no file holds both sides of a merge.

Notable: everything is read from the tree, from the help of the command line and from the code, so nothing here has to
be changed when a file moves or an option is added.
"""

import functools
import importlib
import inspect
import io
import re
from contextlib import redirect_stdout, suppress
from pathlib import Path

import pytest
import yaml

import mtl_hf
from mtl_hf import cli
from mtl_hf.config import describe
from mtl_hf.tasks import TASK_TYPES
from mtl_hf.tasks.registry import GROUP

ROOT = Path(__file__).parent.parent
FOLDERS = ("mtl_hf", "tests", "benchmarks", "configs", "docs", ".ci")
TEXT = (".py", ".md", ".yaml", ".toml", ".txt", ".jsonl", "")
FILES = sorted(
    path
    for path in [*ROOT.iterdir(), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    if path.is_file() and path.suffix in TEXT and "__pycache__" not in path.parts and path.name != ".git"
)
PAGES = [path for path in FILES if path.suffix == ".md" and path.parent.name != "hub"]  # there a template of cards
# The changelog is history: it may name what is gone.
CURRENT = [path for path in PAGES if path.name != "CHANGELOG.md"]
CONFIGS = [path for path in FILES if path.suffix == ".yaml"]
SECTIONS = ("model", "sources", "tasks", "training", "card")
# Libraries whose names pages use without ours doing so.
OTHERS = ("transformers", "torch", "peft", "torchjd.aggregation", "torchjd.scalarization")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(path: Path) -> str:
    """A page, or the comments of a config."""
    text = path.read_text(encoding="utf-8")
    return text if path.suffix == ".md" else "\n".join(re.findall(r"#.*", text))


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def spans(page: Path) -> list[str]:
    """What stands between backticks, outside of blocks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", without_blocks(text_of(page)))]


@functools.cache
def words_of_the_code() -> frozenset[str]:
    """Every word in the code, configs and settings of the repository, pages and tests aside."""
    chosen = [path for path in FILES if path.suffix != ".md" and "tests" not in path.relative_to(ROOT).parts]
    return frozenset(re.findall(r"\w+", "\n".join(path.read_text(encoding="utf-8") for path in chosen)))


@functools.cache
def options() -> dict[str, set[str]]:
    """Verb of the command line → its options, as its help lists them."""

    def help_of(*words: str) -> str:
        with redirect_stdout(io.StringIO()) as shown, suppress(SystemExit):
            cli.main([*words, "--help"])
        return shown.getvalue()

    verbs = re.findall(r"^    ([a-z][\w-]*)", help_of(), re.MULTILINE)
    found = {verb: set(re.findall(r"^ +(?:-\w, )?(--[\w-]+)", help_of(verb), re.MULTILINE)) for verb in verbs}
    return found | {"": set.union({"--version"}, *found.values())}


@functools.cache
def keys() -> dict[str, set[str]]:
    """Section of a config → its keys, as the help explains them; with transformers' in `training`."""
    found: dict[str, set[str]] = {}
    for line in describe({name: kind.options for name, kind in TASK_TYPES.items()}).splitlines():
        indent, key = re.match(r"( *)([\w.]+)", line).groups()
        if not indent:
            section = found.setdefault(key.split(".")[-1] if key.startswith("training.") else key.split(".")[0], set())
        else:
            section.add(key)
    found["training"] |= set(mtl_hf.MultiTaskTrainingArguments.__dataclass_fields__)
    return found


def exists(dotted: str) -> bool:
    """Whether `mtl_hf.a.b` is a module, or something in one."""
    found, *names = mtl_hf, *dotted.split(".")[1:]
    for place, name in enumerate(names):
        if not hasattr(found, name):
            try:
                importlib.import_module(".".join(["mtl_hf", *names[: place + 1]]))
            except ImportError:
                return False
        found = getattr(found, name)
    return True


# ---- whole files ----


def test_no_file_holds_both_sides_of_a_merge() -> None:
    marker = re.compile(r"^(<{7}|\|{7}|={7}|>{7})( |$)", re.MULTILINE)
    assert len(FILES) > 200
    assert [name_of(path) for path in FILES if marker.search(path.read_text(encoding="utf-8"))] == []


# ---- links ----


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.*?) *$", without_blocks(page.read_text(encoding="utf-8")), re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        found.append(f"{slug}-{number}" if (number := found.count(slug)) else slug)
    return set(found)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = without_blocks(page.read_text(encoding="utf-8"))
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)|(?:src|href)=\"([^\"]+)\"", text):
        path, _, anchor = "".join(target).partition("#")
        if ":" in path:  # another site
            continue
        place = page.parent / path if path else page
        if not place.exists() or (anchor and anchor not in anchors(place)):
            dead.append("".join(target))
    assert dead == []


# ---- files ----


@pytest.mark.parametrize("page", [*CURRENT, *CONFIGS], ids=name_of)
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"(?<![\w/.{<-])(?:mtl_hf|tests|benchmarks|configs|docs)/[\w./-]*[\w/]", text_of(page))
    named = [path for path in named if not re.search(r"\b[A-Z]+\b", Path(path).stem)]  # configs/NAME.yaml
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_a_file_without_its_folder_is_in_the_tree_or_written_by_the_code(page: Path) -> None:
    tree = ["/" + name_of(path) for path in FILES]
    code = "\n".join(path.read_text(encoding="utf-8") for path in FILES if path.suffix in (".py", ".toml"))
    named = [span for span in spans(page) if re.fullmatch(r"[\w./-]+\.[a-z]{2,11}", span)]
    for block in re.findall(r"^```\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE):  # the plan of the house
        named += re.findall(r"(?<![\w./<>-])[\w/-]+\.(?:py|md)\b", block)
    kinds = (
        ".py",
        ".md",
        ".toml",
        ".txt",
        ".log",
        ".json",
        ".jsonl",
        ".yaml",
        ".png",
        ".safetensors",
        ".db",
        ".onnx",
        ".data",
    )
    missing = [
        span
        for span in named
        if span.endswith(kinds)
        and not any(path.endswith("/" + span) for path in tree)
        and Path(span).name not in code
        and not (span.endswith(".png") and Path(span).stem in words_of_the_code())
    ]
    assert missing == []


# ---- names ----


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_names_in_backticks_are_names_of_the_code(page: Path) -> None:
    known = words_of_the_code().union(*(dir(importlib.import_module(name)) for name in OTHERS))
    shown = re.findall(r"```(?:python|toml)\n(.*?)```", text_of(page), re.DOTALL)  # which other tests run
    known = known.union(re.findall(r"\w+", " ".join(shown)))
    named = [
        name
        for span in spans(page)
        if not re.search(r"[/\"]", span)  # a path, or the text of an example
        for name in re.findall(r"[A-Za-z]\w*", span)
        if re.search(r"[a-z]_[a-z]|[a-z][A-Z]", name)
    ]
    assert [name for name in named if name not in known and name.rstrip("0123456789") not in known] == []


@pytest.mark.parametrize("page", [*CURRENT, *CONFIGS], ids=name_of)
def test_dotted_names_and_keys_exist(page: Path) -> None:
    text = text_of(page)
    names = re.findall(r"(?<![\w./'-])mtl_hf(?:\.[A-Za-z]\w*)+", text)
    names += [f"mtl_hf.{name}" for name in re.findall(r"(?<![\w.])MultiTask\w+\.\w+", text)]
    missing = [name for name in names if not exists(name) and name != GROUP]
    of_a_model = {*dir(mtl_hf.MultiTaskModel), *re.findall(r"self\.(\w+)", inspect.getsource(mtl_hf.MultiTaskModel))}
    keys_of = r"(?<![\w./-])(model|training|card|(?:sources|tasks)(?=\.<))(?:\.<\w+>)?\.(?!py\b|safet|onnx)([a-z]\w+)"
    for section, key in re.findall(keys_of, text):
        if key not in keys()[section] and not (section == "model" and key in of_a_model):
            missing.append(f"{section}.{key}")
    assert missing == []


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_blocks_of_yaml_have_keys_that_exist(page: Path) -> None:
    unknown = []
    defined = re.findall(r"^    (\w+): .*option\(", text_of(page), re.MULTILINE)  # by a type that the page makes
    for block in re.findall(r"^```yaml\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE):
        tree = yaml.safe_load(block)
        for section in ("model", "tasks", "training", "card"):
            parts = tree.get(section) or {}
            for part in parts.values() if section == "tasks" else [parts]:
                unknown += [f"{section}.{key}" for key in part if key not in {*keys()[section], *defined}]
    assert unknown == []


# ---- commands ----


@pytest.mark.parametrize("page", [*CURRENT, *CONFIGS], ids=name_of)
def test_commands_have_verbs_and_options_that_exist(page: Path) -> None:
    text, wrong = text_of(page), []
    commands = re.findall(r"mtl-hf +([a-z][\w-]*)([^`\n]*)", text)
    for span in spans(page) if page.suffix == ".md" else []:  # `evaluate --data`, and `--data` of any verb
        verb, dashes, rest = span.partition("--")
        if dashes and verb.strip() in options():
            commands.append((verb.strip(), dashes + rest))
    for verb, rest in commands:
        if verb not in options():
            wrong.append(f"mtl-hf {verb}")
            continue
        wrong += [f"{verb} {option}" for option in re.findall(r"(?<=\s)--[a-z][\w-]*", f" {rest}")
                  if option not in options()[verb]]  # fmt: skip
    for script, rest in re.findall(r"python (benchmarks/\w+\.py)([^`\n]*)", text):
        source = (ROOT / script).read_text(encoding="utf-8")
        wrong += [f"{script} {option}" for option in re.findall(r" (--[\w-]+)", rest) if f'"{option}"' not in source]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    wrong += [f"make {target}" for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)
              if target not in targets]  # fmt: skip
    assert wrong == []
