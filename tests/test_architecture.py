"""The import table of docs/architecture.md, held against the code's syntax trees."""

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "architecture.md"
SHARED = {"errors", "logs", "telemetry"}
EVERYTHING = {"commands", "cli"}
CONCURRENCY = {"threading", "asyncio", "concurrent", "multiprocessing", "queue"}
CONCURRENT_FOLDERS = {"serving", "tasks", "api", "commands", "cli", "training"}
HEAVY = {
    "torch",
    "onnx",
    "onnxruntime",
    "fastapi",
    "starlette",
    "uvicorn",
    "numpy",
    "sentencepiece",
    "rouge_score",
    "sacrebleu",
    "safetensors",
    "tokenizers",
    "huggingface_hub",
    "matplotlib",
    "av",
    "jiwer",
}


@dataclass(frozen=True, slots=True)
class Import:
    """One name that a module imports: `target` is `app.text.tokenizer` or `torch.nn`."""

    module: str
    target: str
    place: str
    is_top_level: bool

    @property
    def folder(self) -> str:
        return _folder(self.module)


def _folder(module: str) -> str:
    """`app.text.tokenizer` -> `text`, `app.cli` -> `cli`, `app` -> the empty string."""
    return module.split(".")[1] if "." in module else ""


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module_name(path): path for path in sorted((ROOT / "app").rglob("*.py"))}


def _targets(module: str, path: Path, node: ast.AST) -> list[str]:
    """What one node of the syntax tree imports; nothing for most."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.Call) and _name(node.func) == "import_module" and isinstance(node.args[0], ast.Constant):
        return [str(node.args[0].value)]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for _ in range(node.level - 1):
            package = package.rpartition(".")[0]
        base = f"{package}.{base}" if base else package
    return [inner if (inner := f"{base}.{alias.name}") in MODULES else base for alias in node.names]


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _read_imports() -> list[Import]:
    imports = []
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text("utf-8"), str(path))
        inside_functions = {
            id(inner)
            for outer in ast.walk(tree)
            if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
            for inner in ast.walk(outer)
        }
        for node in ast.walk(tree):
            for target in _targets(module, path, node):
                place = f"{path.relative_to(ROOT)}:{node.lineno}"  # type: ignore[attr-defined]  # imports have one
                imports.append(Import(module, target, place, id(node) not in inside_functions))
    return imports


def _read_table() -> dict[str, tuple[set[str], set[str]]]:
    """Folder -> (what of ours, which libraries) it may import."""
    section = TABLE.read_text("utf-8").split("## Who may import whom")[1].split("\n## ")[0]
    table = {}
    for line in section.splitlines():
        if line.startswith("| `"):
            name, ours, libraries = ([*re.findall(r"`(\w+)`", cell)] for cell in line.strip("|").split("|"))
            table[name[0]] = (set(ours), set(libraries))
    return table


IMPORTS = _read_imports()
ALLOWED = _read_table()


def _fail_with(broken: list[str], way_out: str) -> None:
    if broken:
        pytest.fail("\n".join([*broken, way_out]), pytrace=False)


def test_every_folder_has_a_row_in_the_table() -> None:
    folders = {_folder(module) for module in MODULES} - {""}
    missing = [f"app/{folder} has no row in the import table" for folder in sorted(folders - set(ALLOWED))]
    gone = [
        f"the import table has a row `{folder}`, but there is no such code" for folder in sorted(set(ALLOWED) - folders)
    ]
    _fail_with(missing + gone, f"mend the table in {TABLE.relative_to(ROOT)}")


def test_folders_import_only_what_the_table_allows() -> None:
    broken = []
    for item in IMPORTS:
        target = _folder(item.target)
        if (
            item.target.split(".")[0] != "app"
            or item.folder in {"", target}
            or (item.folder, target) == ("cli", "commands")
        ):
            continue
        allowed = set(ALLOWED) - EVERYTHING if item.folder in EVERYTHING else ALLOWED[item.folder][0] | SHARED
        if target and target not in allowed:
            broken.append(f"{item.place}: `{item.folder}` must not import `{item.target}`")
    _fail_with(broken, "imports point one way: move the code, or pass the object in from above (docs/architecture.md)")


def test_libraries_stay_in_the_folders_that_own_them() -> None:
    broken = []
    for item in IMPORTS:
        library = item.target.split(".")[0]
        if library == "app" or library in sys.stdlib_module_names or item.folder == "":
            continue
        if library not in ALLOWED[item.folder][1]:
            broken.append(f"{item.place}: `{item.folder}` must not import the library `{library}`")
    _fail_with(broken, "use it in a folder that owns it, or add it to the row in docs/architecture.md with a reason")


def test_threads_and_event_loops_stay_with_those_who_drive() -> None:
    broken = [
        f"{item.place}: `{item.folder}` must not import `{item.target}`"
        for item in IMPORTS
        if item.target.split(".")[0] in CONCURRENCY and item.folder not in CONCURRENT_FOLDERS
    ]
    _fail_with(broken, "plain objects are driven from `serving`; they start no thread and await nothing")


def test_modules_have_no_cycles() -> None:
    graph: dict[str, list[str]] = {module: [] for module in MODULES}
    for item in IMPORTS:
        if item.target in graph and item.target != item.module:
            graph[item.module].append(item.target)
    done: set[str] = set()

    def find(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return None
        for target in graph[module]:
            if cycle := find(target, [*path, module]):
                return cycle
        done.add(module)
        return None

    cycles = [" -> ".join(cycle) for module in graph if (cycle := find(module, []))]
    _fail_with(cycles[:1], "break the circle: move what both need into a module of its own")


def test_no_import_hides_from_the_table() -> None:
    broken = []
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            name = _name(node)
            if isinstance(node, ast.Call) and _name(node.func) == "import_module":
                name = "" if isinstance(node.args[0], ast.Constant) else "import_module of a computed name"
            if name in {"TYPE_CHECKING", "__import__", "import_module of a computed name"}:
                broken.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")  # type: ignore[attr-defined]
    _fail_with(broken, "import it plainly where the table allows it")


def test_cli_imports_its_halves_late() -> None:
    broken = [
        f"{item.place}: `{item.target}` at import time"
        for item in IMPORTS
        if item.folder == "cli" and item.is_top_level and item.target.split(".")[0] in HEAVY | {"app"}
        if _folder(item.target) not in SHARED
    ]
    _fail_with(
        broken, "import it inside the verb that needs it, so that `seq2serve --help` is quick and works in either half"
    )


def test_importing_the_cli_loads_nothing_heavy() -> None:
    code = "import sys, app.cli; print(*{name.split('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    loaded = sorted(HEAVY & set(run.stdout.split()))
    assert not loaded, f"importing app.cli loads {', '.join(loaded)}"
