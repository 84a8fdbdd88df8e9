"""What the repository promises about itself: pins, addresses, documented commands and settings, deployment files."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

from elkapi.control.library import Library, docs_folder
from elkapi.local.chat.rows import LIBRARY_PACKAGE
from elkapi.settings import Settings

ROOT = Path(__file__).parents[2]
REQUIREMENTS = [*sorted((ROOT / "requirements").glob("*.txt")), ROOT / "src/elkapi/data/weights.txt"]
SETTINGS = {f"ELKAPI_{name.upper()}" for name in Settings.__struct_fields__}
WORKSHOP_VARIABLES = {
    "ELKAPI_CONFIG", "ELKAPI_KEY", "ELKAPI_TEST_KEY", "ELKAPI_VERSION",
    "ELKAPI_REQUIRE_POSTGRES", "ELKAPI_REQUIRE_REDIS", "ELKAPI_CRASH_AT",
    "ELKAPI_CHAOS_SECONDS", "ELKAPI_CHAOS_ROUNDS", "ELKAPI_SOAK_SECONDS",
}  # fmt: skip

# Spelled in parts, so that this file does not find itself.
REGISTRY_HOSTS = re.compile(
    "|".join(re.escape(a + b) for a, b in [
        ("pypi", ".org"), ("pythonhosted", ".org"), ("registry.npm", "js.org"), ("deb.debian", ".org"),
        ("security.debian", ".org"), ("npmmirror", ".com"), ("huggingface", ".co"),
    ])
    + r"|--(extra-)?index-url[ =]|--find-links[ =]|/simple/?[\"'\s]|\.whl\b.*https?:"
)  # fmt: skip
MACHINE_PATHS = re.compile(r"(?<![\w./~-])/(work|farm|opt/pypi|opt/wheels)/")


@cache
def tracked_texts() -> dict[str, str]:
    """Every tracked text file by its path from the root."""
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    texts = {}
    for name in filter(None, names):
        path = ROOT / name
        if path.is_file() and b"\0" not in (data := path.read_bytes()):
            texts[name] = data.decode("utf-8", errors="replace")
    return texts


def make_words() -> set[str]:
    text = (ROOT / "Makefile").read_text("utf-8")
    return set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))


def documents() -> list[Path]:
    names = [name for name in tracked_texts() if name.endswith(".md") and not name.startswith("changelog.d/")]
    return [ROOT / name for name in names]


@pytest.mark.parametrize("pattern", [REGISTRY_HOSTS, MACHINE_PATHS], ids=["registry address", "machine path"])
def test_no_tracked_file_names_a_registry_or_a_machine(pattern: re.Pattern[str]) -> None:
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in tracked_texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line) and name != "tests/unit/test_workshop.py"
    ]
    assert found == []


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_every_requirement_is_pinned_with_hashes(path: Path) -> None:
    logical = path.read_text("utf-8").replace("\\\n", " ").splitlines()
    lines = [line for line in logical if line.strip() and not line.startswith("#")]
    assert lines
    for line in lines:
        assert re.match(r"[a-z0-9._-]+(\[[a-z0-9, -]+\])?==\S+ ", line), line
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), line


def test_every_declared_dependency_is_in_the_lock() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    declared = project["project"]["dependencies"]
    grouped = [name for group in project["dependency-groups"].values() for name in group]
    locks = {name: (ROOT / "requirements" / name).read_text("utf-8").lower() for name in ("base.txt", "dev.txt")}
    for requirement, lock in [*((d, "base.txt") for d in declared), *((d, "dev.txt") for d in declared + grouped)]:
        name = re.split(r"[\[<>=; ]", requirement)[0].lower()
        assert re.search(rf"^{re.escape(name)}(\[[a-z0-9, -]+\])?==", locks[lock], re.MULTILINE), (
            f"{name}: run `make lock`"
        )


def test_base_and_dev_locks_agree() -> None:
    def pins(name: str) -> set[tuple[str, str]]:
        text = (ROOT / "requirements" / name).read_text("utf-8")
        # A package may be wanted with an extra in one list and without it in the other.
        return set(re.findall(r"^([a-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", text, re.MULTILINE))

    assert pins("base.txt")
    assert pins("base.txt") <= pins("dev.txt")


@pytest.mark.parametrize("name", [name for name in tracked_texts() if name.endswith("package-lock.json")])
def test_npm_locks_record_integrity_and_no_address(name: str) -> None:
    packages = json.loads(tracked_texts()[name])["packages"]
    for path, package in packages.items():
        assert "resolved" not in package, path
        assert path == "" or package["integrity"].startswith("sha512-"), path


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_documented_make_words_exist(path: Path) -> None:
    text = path.read_text("utf-8")
    spans = re.findall(r"`make ([a-z-]+)", text) + re.findall(r"^(?:\$ )?make ([a-z-]+)", text, re.MULTILINE)
    assert set(spans) <= make_words()


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    dead = [target for target in targets if "://" not in target and not leads_somewhere(path, target)]
    assert dead == []


@pytest.mark.parametrize("path", sorted(docs_folder().glob("*.md")), ids=lambda path: path.stem)
def test_a_link_into_a_page_leads_to_a_heading_of_it(path: Path) -> None:
    pages = Library(docs_folder()).pages
    found = re.findall(r"\]\(([a-z-]*)(?:\.md)?#([^)]+)\)", path.read_text("utf-8"))
    dead = [f"{name}#{heading}" for name, heading in found if f'id="{heading}"' not in pages[name or path.stem].html]
    assert dead == []


def leads_somewhere(path: Path, target: str) -> bool:
    """Some pages are made of the catalog: those are no files, and stand at their address on a running gateway."""
    if target.startswith("/docs/"):
        return Library(docs_folder()).page(target.removeprefix("/docs/")) is not None
    return (path.parent / target).exists()


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_documented_variables_exist(path: Path) -> None:
    assert set(re.findall(r"\bELKAPI_[A-Z_]+[A-Z]\b", path.read_text("utf-8"))) <= SETTINGS | WORKSHOP_VARIABLES


@pytest.mark.parametrize("name", ["compose.yaml", "Containerfile", "deploy/elkapi.service"])
def test_deployment_files_use_only_documented_variables(name: str) -> None:
    used = set(re.findall(r"\bELKAPI_[A-Z_]+[A-Z]\b", (ROOT / name).read_text("utf-8")))
    assert used
    assert used <= SETTINGS | {"ELKAPI_VERSION"}
    documented = (ROOT / "docs/settings.md").read_text("utf-8")
    assert {variable for variable in used & SETTINGS if variable not in documented} == set()


def test_compose_has_no_password_and_publishes_only_the_gateway_on_loopback() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["services"]
    assert set(services) == {"gateway", "postgres", "redis"}
    for name, service in services.items():
        secrets = [k for k in service.get("environment", {}) if re.search(r"PASSWORD|SECRET|KEY|DATABASE_URL", k)]
        assert secrets == [], f"{name}: secrets come from its env_file"
    assert [name for name, service in services.items() if service.get("ports")] == ["gateway"]
    assert all(str(port).startswith("127.0.0.1:") for port in services["gateway"]["ports"])
    assert {name for name, service in services.items() if service.get("healthcheck")} == set(services)


def test_container_runs_as_an_ordinary_user_with_hashed_packages() -> None:
    lines = (ROOT / "Containerfile").read_text("utf-8").replace("\\\n", " ").splitlines()
    installs = [line for line in lines if "pip install" in line]
    assert installs
    assert all("--require-hashes" in line for line in installs)
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert users[-1] not in {"root", "0", "0:0"}


@pytest.mark.parametrize("status", [200, 503])
async def test_a_container_is_healthy_when_the_gateway_is_ready_whatever_port_and_proxy_it_has(status: int) -> None:
    (asked,) = re.findall(r"CMD (\[.*readyz.*\])", (ROOT / "Containerfile").read_text("utf-8"))
    _, *test = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["services"]["gateway"]["healthcheck"]["test"]
    assert json.loads(asked) == test

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET /readyz ")
        writer.write(b"HTTP/1.1 %d .\r\ncontent-length: 0\r\n\r\n" % status)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as gateway:
        environment = {"ELKAPI_PORT": str(gateway.sockets[0].getsockname()[1]), "HTTP_PROXY": "http://127.0.0.1:9"}
        asking = await asyncio.create_subprocess_exec(sys.executable, *test[1:], env=environment)
        assert (await asking.wait() == 0) is (status == 200)


def test_the_image_has_everything_that_the_package_is_built_from() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    needed |= {path.partition("/")[0] for path in [*wheel["packages"], *wheel["force-include"]]}
    lines = (ROOT / "Containerfile").read_text("utf-8").splitlines()
    copied = {word.rstrip("/") for line in lines if re.match("COPY (?!--from)", line) for word in line.split()[1:-1]}
    assert needed - copied == set()


@pytest.mark.parametrize("name", ["Containerfile", "scripts/debian-packages", "docs/local-chat.md"])
def test_the_library_that_the_chat_models_runtime_needs_comes_with_every_way_to_install(name: str) -> None:
    assert LIBRARY_PACKAGE in (ROOT / name).read_text("utf-8")


@pytest.mark.parametrize("name", [".ci/run", *sorted(n for n in tracked_texts() if n.startswith("scripts/"))])
def test_scripts_are_executable_and_parse(name: str) -> None:
    path = ROOT / name
    if path.suffix == ".py":
        compile(path.read_text("utf-8"), name, "exec")
        return
    assert path.stat().st_mode & 0o100, f"{name} is not executable"
    subprocess.run(["bash", "-n", path], check=True)


def make_venv(
    tmp_path: Path, versions: dict[str, tuple[int, int]], **environment: str
) -> subprocess.CompletedProcess[str]:
    """scripts/venv on a PATH with these Pythons alone: each says its version, and notes here what else it is asked."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "env"):
        (tools / name).symlink_to(f"/bin/{name}")
    for name, version in versions.items():
        says = f"import sys; sys.version_info = {version}; exec(sys.argv[2])"
        (tools / name).write_text(
            f"#!/bin/sh\n[ $1 = -c ] || {{ echo made by {name} in $3; exit; }}\n"
            f"exec {sys.executable} -c '{says}' \"$@\"\n"
        )
        (tools / name).chmod(0o755)
    return subprocess.run(
        [ROOT / "scripts/venv", "here"],
        env={"PATH": str(tools), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("versions", "chosen"), [
    ({"python3": (3, 11)}, "python3"),
    ({"python3": (3, 14)}, "python3"),
    ({"python3": (3, 15), "python3.13": (3, 13), "python3.12": (3, 12)}, "python3.13"),
    ({"python3": (3, 9), "python3.11": (3, 11)}, "python3.11"),
])  # fmt: skip
def test_the_environment_is_made_by_a_python_that_the_pins_are_built_for(
    tmp_path: Path, versions: dict[str, tuple[int, int]], chosen: str
) -> None:
    done = make_venv(tmp_path, versions)
    assert done.stdout.splitlines()[-1] == f"made by {chosen} in here"


@pytest.mark.parametrize("environment", [{}, {"PYTHON": "python3.15"}])
def test_a_python_that_the_pins_are_not_built_for_is_refused_by_name(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    done = make_venv(tmp_path, {"python3": (3, 10), "python3.15": (3, 15)}, **environment)
    assert done.returncode == 1
    assert "Python 3.11, 3.12, 3.13 or 3.14" in done.stderr
    assert (environment.get("PYTHON") or "python3 python3.14") in done.stderr


def test_the_pythons_that_pyproject_names_are_those_that_the_script_takes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    bounds = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"])
    assert bounds is not None
    low, high = bounds.groups()
    assert f"(3, {low}) <= sys.version_info < (3, {high})" in (ROOT / "scripts/venv").read_text("utf-8")
    named = {line.rpartition("3.")[2] for line in project["classifiers"] if line.startswith("Programming Language")}
    assert named == {str(minor) for minor in range(int(low), int(high))}


def test_ci_runs_the_readme_test_command() -> None:
    assert "Tests: `make test`" in (ROOT / "README.md").read_text("utf-8")
    assert re.search(r"^exec make .*\btest$", (ROOT / ".ci/run").read_text("utf-8"), re.MULTILINE)


def test_every_decision_record_says_what_was_given_up() -> None:
    records = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
    assert len(records) == len({path.name[:4] for path in records}) > 0
    for path in records:
        headings = set(re.findall(r"^## (.*)$", path.read_text("utf-8"), re.MULTILINE))
        assert {"Context", "Choice", "What we gave up"} <= headings, path.name
        assert headings & {"Alternatives", "Compared"}, path.name


def test_make_alone_lists_every_word() -> None:
    out = subprocess.check_output(["make", "--no-print-directory"], cwd=ROOT, text=True)
    public = {"setup", "run", "dev", "lint", "fix", "test", "test-fast", "bench", "chaos", "soak", "docs", "web"}
    assert public <= make_words()
    assert all(re.search(rf"^make {word} ", out, re.MULTILINE) for word in public)
