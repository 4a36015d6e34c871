"""Makes docs/reference/methods.md of the methods' docstrings and of a leaderboard's result.json.

python -m experiments.methods_page --result runs/leaderboard/result.json
"""

import dataclasses
import pathlib
import shutil

from experiments import cli
from jaxnas.leaderboard import standings
from jaxnas.report import methods_page
from jaxnas.results.files import replacing
from jaxnas.results.json_files import read_json


@dataclasses.dataclass(frozen=True)
class Config:
    """Makes the page of methods."""

    result: tuple[pathlib.Path, ...] = ()
    """result.json of leaderboards; a problem in several is taken from the last."""
    out: pathlib.Path = pathlib.Path("docs/reference/methods.md")
    """The page; the first leaderboard's figure goes beside it."""


def main(config: Config) -> None:
    """Writes the page."""
    problems, commands = {}, []
    for path in config.result:
        try:
            content = read_json(path)
            for name, part in content["problems"].items():
                title = f"{name}, noise {part['noise']:g}" if "noise" in part else name
                problems[title] = standings.from_json(part)
            commands.append(content["command"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"result {path} is not the result.json of a leaderboard: {error}") from error
    page = methods_page.page(problems, "\n    ".join(commands))
    with replacing(config.out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    for path in config.result[:1]:
        picture, copy = path.parent / "leaderboard.png", config.out.parent / "leaderboard.png"
        if picture.resolve() != copy.resolve():
            shutil.copyfile(picture, copy)


if __name__ == "__main__":
    cli.run(main, Config)
