"""The pictures of the report page in README and samples: `python -m tests.report_pictures [--out FOLDER]`

Needs Chromium, Playwright, timm and PyTorch. Folds a U-Net and RepGhostNet, opens their pages, and takes one picture of
each, in no more than 256 colours.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from bnfold.folding.pipeline import fold_file
from bnfold.reporting import of_fold, to_html
from bnfold.system import staging
from tests.zoo_models import exported

HOME = Path(__file__).resolve().parents[1] / "samples" / "01_fold_a_model"
PICTURES: dict[
    str, tuple[str, str, str, str]
] = {  # file: model, colour scheme, result of the chosen node, first element
    "report_light.png": ("unet", "light", "kept", "body"),
    "report_dark.png": ("repghostnet_050", "dark", "merge", "#network"),
}
SIZE = {"width": 1280, "height": 900}
LARGEST = 200_000  # bytes


def page_of(name: str, folder: Path) -> Path:
    """The page of a fold of a model of the zoo."""
    source = exported(name, folder)
    target = folder / f"{name}.html"
    os.chdir(folder)
    target.write_text(to_html(of_fold(fold_file(Path(source.name)))))
    return target


def taken(page: Page, path: Path, result: str, first: str) -> bytes:
    """A page from one element down to the network, which is shown whole, the first node with this result chosen."""
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    page.evaluate(f"bn.chooseEntry(bn.data.nodes.findIndex((entry) => entry.result === '{result}'))")
    page.click("#fit")
    page.evaluate(
        "document.activeElement.blur(); scrollTo(0, 0); document.querySelector('nav').style.position = 'static'"
    )
    page.wait_for_timeout(500)
    edges = "[document.querySelector(FIRST).getBoundingClientRect().top, document.querySelector('.stage').getBoundingClientRect().bottom]"
    top, bottom = page.evaluate(edges.replace("FIRST", repr(first)))
    clip = {"x": 0, "y": top, "width": SIZE["width"], "height": bottom - top + 24}
    return page.screenshot(full_page=True, clip=clip)


def small(picture: bytes) -> bytes:
    """The same in 256 colours."""
    found = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        found, "png", optimize=True
    )
    return found.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HOME)
    out = parser.parse_args().out.resolve()
    options: dict[str, Any] = {"executable_path": os.environ.get("BNFOLD_CHROMIUM") or shutil.which("chromium")}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(**options, args=["--no-sandbox", "--disable-gpu"])
        for file, (model, scheme, result, first) in PICTURES.items():
            path = page_of(model, Path(folder))
            page = browser.new_page(viewport=SIZE, color_scheme=scheme, reduced_motion="reduce")
            picture = small(taken(page, path, result, first))
            assert len(picture) < LARGEST, (file, len(picture))
            staging.write_file(out / file, picture)
            print(f"{out / file}: {len(picture)} bytes")


if __name__ == "__main__":
    main()
