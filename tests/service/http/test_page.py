"""Tests of the page in headless Chromium, with the shipped models."""

import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright

from service.settings import Settings
from tests.service.access.kit import KEYS, keys_text
from tests.serving_kit import (
    COLOUR_NETWORK,
    COLOURS,
    REPOSITORY,
    Reference,
    Server,
    bentoml_serve,
    colour_image,
    encode,
    write_artifact,
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
EXAMPLES = REPOSITORY / "examples"
SHIPPED_KEY = REPOSITORY / "zoo" / "limelight.pub"
SEVEN = [(0.25, 0.2), (0.5, 0.2), (0.75, 0.2), (0.65, 0.45), (0.5, 0.65), (0.42, 0.85)]

# The default of 5 s is short for a busy machine.
expect.set_options(timeout=30_000)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt install chromium")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("shipped")
    with bentoml_serve(
        Settings().models,
        folder,
        LIMELIGHT_DEFAULT_MODEL="digits",
        LIMELIGHT_WORKERS="1",
        LIMELIGHT_MAX_BYTES="400000",
        LIMELIGHT_SIGNATURES="warn",
        LIMELIGHT_TRUSTED_KEYS=str(SHIPPED_KEY),
    ) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                *("--no-sandbox", "--disable-gpu"),
                # Chromium's test image as camera, without a permission dialogue.
                *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, shipped: Server) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    elsewhere: list[str] = []
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((shipped.url, "blob:", "data:"))
            else elsewhere.append(request.url)
        ),
    )
    page.goto(shipped.url)
    expect(page.locator("#model option").first).to_be_attached()
    yield page
    page.close()
    assert elsewhere == []
    # The browser logs a rejected request as an error, which is expected.
    assert [each for each in complaints if "Failed to load resource" not in each] == []


def draw(page: Page, corners: list[tuple[float, float]]) -> None:
    box = page.locator("#picture").bounding_box()
    assert box is not None
    for number, (x, y) in enumerate(corners):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=6)
        if number == 0:
            page.mouse.down()
    page.mouse.up()


def choose(page: Page, name: str, content: bytes, media_type: str = "image/png") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": media_type, "buffer": content})


def overlay(page: Page) -> str:
    return str(page.evaluate("document.getElementById('overlay').toDataURL()"))


def test_drawn_seven_is_recognised(page: Page) -> None:
    empty = overlay(page)
    draw(page, SEVEN)
    expect(page.locator("#verdict")).to_contain_text("7,")
    assert overlay(page) != empty
    expect(page.locator("#facts")).to_contain_text("Runs onCPU")
    key = hashlib.sha256(SHIPPED_KEY.read_bytes()).hexdigest()
    expect(page.locator("#facts")).to_contain_text(f"Signatureof a trusted key, {key[:16]}")
    for stage in ("in the queue", "computing", "on the network"):
        expect(page.locator("#facts")).to_contain_text(stage)


def test_answers_appear_while_drawing(page: Page) -> None:
    box = page.locator("#picture").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 100, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 110, box["y"] + 300, steps=8)
    expect(page.locator("#verdict")).to_contain_text("%")
    page.mouse.up()


def test_a_photograph_is_recognised_and_the_map_follows_the_class(page: Page) -> None:
    page.select_option("#model", "cifar10")
    choose(page, "cat.png", (EXAMPLES / "cat.png").read_bytes())
    expect(page.locator("#verdict")).to_contain_text("cat,")
    expect(page.locator("#overlay")).to_have_attribute("data-shows", "cat")
    of_cat = overlay(page)
    page.get_by_role("button", name="dog").click()
    expect(page.locator("#overlay")).to_have_attribute("data-shows", "dog")
    assert overlay(page) != of_cat
    expect(page.get_by_role("button", name="dog")).to_have_attribute("aria-pressed", "true")
    page.select_option("#against", label="cat")
    expect(page.locator("#shown")).to_contain_text("dog rather than cat")
    compared = overlay(page)
    page.locator("#opacity").fill("0")
    assert overlay(page) != compared


def test_zoomed_crop_can_be_shown_and_left_again(page: Page) -> None:
    page.get_by_role("button", name="A cat").click()
    expect(page.locator("#verdict")).to_contain_text("cat,")
    width = page.locator("#picture").evaluate("canvas => canvas.width")
    page.get_by_role("button", name="Zoom in").click()
    back = page.get_by_role("button", name="Back to the full image")
    expect(back).to_be_visible()
    assert page.locator("#picture").evaluate("canvas => canvas.width") < width
    back.click()
    expect(page.get_by_role("button", name="Zoom in")).to_be_visible()
    assert page.locator("#picture").evaluate("canvas => canvas.width") == width


def test_an_image_can_be_dropped_and_pasted(page: Page) -> None:
    hand_over = """async ([kind, url]) => {
        const blob = await (await fetch(url)).blob();
        const data = new DataTransfer();
        data.items.add(new File([blob], "given.png", { type: "image/png" }));
        const event = kind === "paste"
            ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
            : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
        document.body.dispatchEvent(event);
    }"""
    page.evaluate(hand_over, ["drop", "examples/seven.png"])
    expect(page.locator("#verdict")).to_contain_text("7,")
    page.evaluate(hand_over, ["paste", "examples/two.png"])
    expect(page.locator("#verdict")).to_contain_text("2,")


def test_errors_of_an_upload_are_shown_in_a_notice(page: Page) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), np.uint8)
    choose(page, "noise.png", encode(Image.fromarray(noise)))
    expect(page.locator("#notice")).to_contain_text("too large")
    choose(page, "note.png", b"hello")
    expect(page.locator("#notice")).to_contain_text("Not an image format")
    page.get_by_role("button", name="A handwritten 7").click()
    expect(page.locator("#verdict")).to_contain_text("7,")
    expect(page.locator("#notice")).to_be_hidden()


def test_a_digit_can_be_drawn_with_the_keyboard_alone(page: Page) -> None:
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "picture":
            break
    for _ in range(9):
        page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    for _ in range(18):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    expect(page.locator("#verdict")).to_contain_text("1,")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "clear"


def test_shown_code_reproduces_the_request(page: Page, shipped: Server, tmp_path: Path) -> None:
    draw(page, SEVEN)
    expect(page.locator("#verdict")).to_contain_text("7,")
    page.get_by_text("This request as code").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Save the image").click()
    download.value.save_as(tmp_path / download.value.suggested_filename)
    program = page.locator("#python").inner_text()
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("7 0.")
    command = page.locator("#curl").inner_text()
    assert command.startswith("curl --data-binary @drawing.png")
    assert f"{shipped.url}/explain?model=digits&target=7" in command


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1100])
def test_page_has_no_accessibility_violations_and_no_horizontal_scrolling(
    browser: Browser, shipped: Server, scheme: str, width: int
) -> None:
    page = browser.new_page(
        viewport={"width": width, "height": 800},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page.goto(shipped.url)
    page.get_by_role("button", name="A cat").click()
    expect(page.locator("#verdict")).to_contain_text("cat,")
    page.get_by_text("This request as code").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page, options={"resultTypes": ["violations", "passes"]})
    assert found.violations_count == 0, found.generate_report()
    assert len(found.response["passes"]) >= 20
    page.close()


def test_page_recovers_when_the_service_returns(browser: Browser, tmp_path: Path) -> None:
    def serve(folder: str, port: int = 0) -> AbstractContextManager[Server]:
        return bentoml_serve(
            Settings().models,
            tmp_path / folder,
            port=port,
            LIMELIGHT_DEFAULT_MODEL="digits",
            LIMELIGHT_WORKERS="1",
        )

    page = browser.new_page()
    with serve("first") as server:
        page.goto(server.url)
        expect(page.locator("#model option").first).to_be_attached()
    draw(page, SEVEN)
    expect(page.locator("#notice")).to_contain_text("does not answer")
    port = httpx.URL(server.url).port or 0
    with serve("second", port):
        expect(page.locator("#verdict")).to_contain_text("7,", timeout=20_000)
        expect(page.locator("#notice")).to_be_hidden()
        page.close()


def test_page_waits_for_the_first_model(browser: Browser, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    with bentoml_serve(
        models, tmp_path, LIMELIGHT_MODELS_POLL_S="0.3", LIMELIGHT_WORKERS="1"
    ) as server:
        page = browser.new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(server.url)
        expect(page.locator("#notice")).to_contain_text("No model is served")
        choose(page, "red.png", RED)
        write_artifact(models)
        expect(page.locator("#verdict")).to_contain_text("red,")
        expect(page.locator("#notice")).to_be_hidden()
        assert complaints == []
        page.close()


def test_page_asks_its_model_again_while_another_one_keeps_the_service_unready(page: Page) -> None:
    page.route("**/readyz", lambda route: route.fulfill(status=503))
    page.route("**/explain*", lambda route: route.fulfill(status=503), times=1)
    choose(page, "two.png", (EXAMPLES / "two.png").read_bytes())
    expect(page.locator("#notice")).to_contain_text("503")
    expect(page.locator("#verdict")).to_contain_text("2,")
    expect(page.locator("#notice")).to_be_hidden()


# Without a browser


def test_unchanged_files_are_answered_with_304(shipped: Server) -> None:
    with httpx.Client(base_url=shipped.url) as client:
        first = client.get("/page/page.js")
        assert first.headers["content-type"] == "text/javascript; charset=utf-8"
        again = client.get("/page/page.js", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        changed = client.get("/page/page.js", headers={"If-None-Match": '"other"'})
        assert changed.content == first.content


def test_content_security_policy_forbids_other_origins(shipped: Server) -> None:
    response = httpx.get(shipped.url)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


@pytest.mark.parametrize(
    "path", ["/page/", "/page/nothing.js", "/page/..%2fbento.py", "/examples/README.md"]
)
def test_other_paths_of_the_page_are_404(shipped: Server, path: str) -> None:
    response = httpx.get(shipped.url + path)
    assert response.status_code == 404
    assert response.json()["code"] == "no_such_route"


def test_every_file_of_the_page_is_referenced() -> None:
    folder = REPOSITORY / "service" / "page"
    texts = "\n".join(file.read_text() for file in folder.iterdir())
    for name in {file.name for file in folder.iterdir()} - {"index.html"}:
        assert f"page/{name}" in texts or f"./{name}" in texts


def test_an_image_chosen_before_the_models_are_known_is_classified_later(page: Page) -> None:
    held: list[Route] = []
    page.route("**/models", lambda route: held.append(route))
    page.reload()
    choose(page, "two.png", (EXAMPLES / "two.png").read_bytes())
    expect(page.locator("#picture")).to_have_attribute("aria-label", "two.png")
    (request,) = held
    request.continue_()
    expect(page.locator("#verdict")).to_contain_text("2,")
    expect(page.locator("#picture")).to_have_attribute("aria-label", "two.png")


def test_drawing_made_before_the_models_are_known_is_classified_later(page: Page) -> None:
    held: list[Route] = []
    page.route("**/models", lambda route: held.append(route))
    page.reload()
    draw(page, SEVEN)
    (request,) = held
    request.continue_()
    expect(page.locator("#verdict")).to_contain_text("7,")


# The first image that the page decodes waits for `decode()`.
HOLD_DECODING = """
const decodeNow = window.createImageBitmap;
window.createImageBitmap = async (blob) => {
  window.createImageBitmap = decodeNow;
  await new Promise((resolve) => { window.decode = resolve; });
  return decodeNow(blob);
};
null;
"""


def test_image_chosen_last_is_shown_although_the_one_before_takes_longer(page: Page) -> None:
    page.evaluate(HOLD_DECODING)
    choose(page, "seven.png", (EXAMPLES / "seven.png").read_bytes())
    page.wait_for_function("() => window.decode !== undefined")
    choose(page, "two.png", (EXAMPLES / "two.png").read_bytes())
    expect(page.locator("#verdict")).to_contain_text("2,")
    page.evaluate("decode()")
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 100))")
    expect(page.locator("#picture")).to_have_attribute("aria-label", "two.png")
    expect(page.locator("#verdict")).to_contain_text("2,")


def test_empty_pad_is_not_classified(page: Page) -> None:
    with page.expect_request("**/explain*") as first:
        page.get_by_label("LayerCAM map").check()
        page.select_option("#model", "digits-small")
        draw(page, SEVEN)
    assert "model=digits-small" in first.value.url


def test_model_chosen_before_the_first_answer_classifies_the_image(page: Page) -> None:
    held: list[Route] = []
    page.route("**/explain*", lambda route: held.append(route), times=1)
    with page.expect_request("**/explain*"):
        choose(page, "two.png", (EXAMPLES / "two.png").read_bytes())
    page.select_option("#model", "digits-small")
    expect(page.locator("#verdict")).to_contain_text("2,")
    expect(page.locator("#facts")).to_contain_text("digits-small, version")


def test_layercam_is_disabled_for_a_model_without_it(browser: Browser, tmp_path: Path) -> None:
    write_artifact(tmp_path / "models", layercam=False)
    with bentoml_serve(tmp_path / "models", tmp_path, LIMELIGHT_WORKERS="1") as server:
        page = browser.new_page()
        page.goto(server.url)
        choose(page, "noise.png", encode(colour_image(np.random.default_rng(0))))
        expect(page.locator("#curl")).to_contain_text("model=colours")
        expect(page.get_by_label("LayerCAM map")).to_be_disabled()
        expect(page.locator("#curl")).not_to_contain_text("method")
        page.close()


def test_another_version_can_be_chosen(browser: Browser, tmp_path: Path) -> None:
    for version in ("1", "2"):
        write_artifact(tmp_path / "models", version=version)
    with bentoml_serve(
        tmp_path / "models", tmp_path, LIMELIGHT_VERSIONS="latest:2", LIMELIGHT_WORKERS="1"
    ) as server:
        page = browser.new_page()
        page.goto(server.url)
        choose(page, "noise.png", encode(colour_image(np.random.default_rng(0))))
        expect(page.locator("#facts")).to_contain_text("colours, version 2")
        expect(page.locator("#curl")).not_to_contain_text("version")
        page.locator("#model").select_option("colours, version 1")
        expect(page.locator("#facts")).to_contain_text("colours, version 1")
        expect(page.locator("#curl")).to_contain_text("model=colours&version=1")
        expect(page.locator("#facts")).to_contain_text("In float32 because")
        page.close()


@pytest.fixture(scope="module")
def two_versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve two versions that disagree about every picture of one colour, and a lone model."""
    folder = tmp_path_factory.mktemp("versions")
    rolled = replace(COLOUR_NETWORK, weight=np.roll(COLOUR_NETWORK.weight, 1, axis=0))
    write_artifact(folder / "models", version="1", network=rolled, layercam=False)
    write_artifact(folder / "models", version="2")
    write_artifact(folder / "models", name="lone")
    with bentoml_serve(
        folder / "models", folder, LIMELIGHT_VERSIONS="latest:2", LIMELIGHT_WORKERS="1"
    ) as server:
        yield server


RED = encode(Image.new("RGB", (8, 8), (255, 0, 0)))


def shares(reference: Reference) -> dict[str, float]:
    image = np.asarray(Image.new("RGB", (8, 8), (255, 0, 0)))[None]
    return dict(zip(COLOURS, reference.probabilities(image)[0], strict=True))


@pytest.mark.parametrize("width", [375, 1100])
def test_two_versions_are_compared_on_the_same_image(
    browser: Browser, two_versions: Server, width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(two_versions.url)
    choose(page, "red.png", RED)
    expect(page.locator("#verdict")).to_contain_text("red,")
    expect(page.locator("#pair")).to_be_hidden()
    page.get_by_label("Second version").select_option("1")
    expect(page.locator("#compared")).to_have_text(
        "The versions disagree: version 2 says red, version 1 says green."
    )
    expect(page.locator("#side-0")).to_contain_text("Version 2: red,")
    expect(page.locator("#side-1")).to_contain_text("Version 1: green,")
    rolled = replace(COLOUR_NETWORK, weight=np.roll(COLOUR_NETWORK.weight, 1, axis=0))
    first, second = shares(COLOUR_NETWORK), shares(rolled)
    row = page.locator("#shares tr", has_text="red").locator("td")
    points = 100 * (second["red"] - first["red"])
    expect(row).to_have_text(
        [f"{100 * first['red']:.1f}%", f"{100 * second['red']:.1f}%", f"\u2212{-points:.1f}"]
    )
    # The same class is shown on both sides, whichever was chosen.
    for label in ("red", "green"):
        page.locator("#classes").get_by_role("button", name=label).click()
        for side in ("0", "1"):
            expect(page.locator(f"#overlay-{side}")).to_have_attribute("data-shows", label)
    drawn = "side => document.getElementById(`overlay-${side}`).toDataURL()"
    assert page.evaluate(drawn, "0") != page.evaluate(drawn, "1")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.close()


def test_comparison_follows_the_image_and_the_model(browser: Browser, two_versions: Server) -> None:
    page = browser.new_page()
    held: list[Route] = []
    page.route("**/explain*", lambda route: held.append(route), times=1)
    page.goto(two_versions.url)
    choose(page, "red.png", RED)
    # While the first request runs: the second version is asked after it.
    page.get_by_label("Second version").select_option("1")
    (first,) = held
    first.continue_()
    expect(page.locator("#compared")).to_contain_text("version 2 says red")
    choose(page, "blue.png", encode(Image.new("RGB", (8, 8), (0, 0, 255))))
    expect(page.locator("#compared")).to_contain_text("version 2 says blue, version 1 says red")
    # An error of the second version leaves the answer of the first.
    page.get_by_label("LayerCAM map").check()
    expect(page.locator("#compared")).to_contain_text("layercam")
    expect(page.locator("#pair")).to_be_hidden()
    expect(page.locator("#verdict")).to_contain_text("blue,")
    page.get_by_label("LayerCAM map").uncheck()
    expect(page.locator("#pair")).to_be_visible()
    page.locator("#model").select_option("colours, version 1")
    expect(page.get_by_label("Second version")).to_have_value("")
    expect(page.locator("#pair")).to_be_hidden()
    page.locator("#model").select_option("lone")
    expect(page.locator("#versions")).to_be_hidden()
    page.close()


def test_version_that_became_active_meanwhile_is_described(
    browser: Browser, tmp_path: Path
) -> None:
    write_artifact(tmp_path / "models", version="1")
    settings = {"LIMELIGHT_MODELS_POLL_S": "0.3", "LIMELIGHT_SIGNATURES": "warn"}
    settings["LIMELIGHT_WORKERS"] = "1"
    settings["LIMELIGHT_TRUSTED_KEYS"] = str(SHIPPED_KEY)
    with bentoml_serve(tmp_path / "models", tmp_path, also=settings) as server:
        page = browser.new_page()
        page.goto(server.url)
        choose(page, "noise.png", encode(colour_image(np.random.default_rng(0))))
        expect(page.locator("#facts")).to_contain_text("colours, version 1")
        expect(page.locator("#facts")).to_contain_text("Signaturenot verified: ")
        write_artifact(tmp_path / "models", version="2")
        with httpx.Client(base_url=server.url) as client:
            while client.get("/models/colours").json()["version"] == "1":
                time.sleep(0.1)
        choose(page, "noise.png", encode(colour_image(np.random.default_rng(1))))
        expect(page.locator("#facts")).to_contain_text("colours, version 2")
        expect(page.locator("#facts")).to_contain_text("Runs onCPU")
        page.close()


def test_layercam_is_requested_and_shown_in_the_code(page: Page) -> None:
    page.get_by_role("button", name="A cat").click()
    expect(page.locator("#verdict")).to_contain_text("cat,")
    coarse = overlay(page)
    page.get_by_label("LayerCAM map").check()
    expect(page.locator("#curl")).to_contain_text("method=layercam")
    expect(page.locator("#python")).to_contain_text('"method": "layercam"')
    assert overlay(page) != coarse
    page.get_by_label("LayerCAM map").uncheck()
    expect(page.locator("#curl")).not_to_contain_text("method")
    assert overlay(page) == coarse


def test_page_warns_about_an_out_of_distribution_image(page: Page) -> None:
    caution = page.locator("#caution")
    page.get_by_role("button", name="A handwritten 7").click()
    expect(page.locator("#verdict")).to_contain_text("7,")
    expect(caution).to_be_hidden()
    noise = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    choose(page, "noise.png", encode(Image.fromarray(noise)))
    expect(caution).to_contain_text("does not look like the training images")
    page.get_by_role("button", name="Draw").click()
    expect(caution).to_be_hidden()


CAMERA = "document.getElementById('video').srcObject"
HOLD_PERMISSION = """() => {
    const { mediaDevices } = navigator;
    const open = mediaDevices.getUserMedia.bind(mediaDevices);
    const allowed = new Promise((resolve) => { window.allow = resolve; });
    window.opened = [];
    mediaDevices.getUserMedia = async (wanted) => {
        await allowed;
        const stream = await open(wanted);
        opened.push(stream);
        return stream;
    };
}"""


def test_picture_can_be_taken_with_the_camera(page: Page) -> None:
    page.select_option("#model", "cifar10")
    page.get_by_role("button", name="Camera").click()
    shutter = page.get_by_role("button", name="Take the picture")
    expect(shutter).to_be_focused()
    track = page.evaluate_handle(f"{CAMERA}.getVideoTracks()[0]")
    assert track.evaluate("track => track.readyState") == "live"
    shutter.click()
    expect(page.locator("#verdict")).to_contain_text("%")
    expect(page.locator("#save")).to_have_attribute("download", "camera.png")
    page.get_by_text("This request as code").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Save the image").click()
    with Image.open(download.value.path()) as taken:
        # Chromium gives a stream that has ended a picture of 2 x 2 black pixels.
        assert min(taken.size) > 2
        assert np.asarray(taken.convert("RGB")).any()
    expect(page.locator("#video")).to_be_hidden()
    expect(page.get_by_role("button", name="Camera")).to_have_attribute("aria-pressed", "false")
    assert track.evaluate("track => track.readyState") == "ended"


def test_camera_covers_the_drawing_above_and_below_its_picture(page: Page) -> None:
    draw(page, [(0.2, 0.05), (0.8, 0.05)])
    page.get_by_role("button", name="Camera").click()
    expect(page.get_by_role("button", name="Take the picture")).to_be_focused()
    frame = np.asarray(Image.open(BytesIO(page.locator("#frame").screenshot())).convert("L"))
    assert frame[len(frame) // 20].min() > 128  # the stroke is black


def test_image_chosen_while_the_camera_waits_for_permission_is_kept(page: Page) -> None:
    page.evaluate(HOLD_PERMISSION)
    page.get_by_role("button", name="Camera").click()
    choose(page, "two.png", (EXAMPLES / "two.png").read_bytes())
    expect(page.locator("#verdict")).to_contain_text("2,")
    page.evaluate("allow()")
    page.wait_for_function("() => opened.length == 1 && !opened[0].active")
    expect(page.locator("#video")).to_be_hidden()
    expect(page.locator("#verdict")).to_contain_text("2,")


def test_pressing_the_button_again_leaves_one_camera_open(page: Page) -> None:
    page.evaluate(HOLD_PERMISSION)
    button = page.get_by_role("button", name="Camera")
    button.click()
    button.click()
    page.evaluate("allow()")
    expect(page.get_by_role("button", name="Take the picture")).to_be_focused()
    for opened in (2, 3):
        page.wait_for_function(
            f"() => opened.length == {opened} && opened.filter((each) => each.active).length == 1"
        )
        assert page.evaluate(f"{CAMERA}.active")
        button.click()


# The page at /docs


def try_out(page: Page, operation: str, image: str) -> Locator:
    """Open an operation, upload an image and return the area of the response."""
    block = page.locator(f"#operations-Limelight-{operation}")
    block.locator(".opblock-summary-control").click()
    block.locator("input[type=file]").set_input_files(EXAMPLES / image)
    block.locator(".execute").click()
    response = block.locator(".live-responses-table")
    expect(response.locator("tbody .response-col_status")).to_have_text("200")
    return response


def test_docs_page_describes_every_route_and_sends_requests(page: Page, shipped: Server) -> None:
    page.goto(f"{shipped.url}/docs")
    document = httpx.get(f"{shipped.url}/openapi.json").json()
    operations = sum(
        method in ("get", "post") for item in document["paths"].values() for method in item
    )
    expect(page.locator(".opblock")).to_have_count(operations)
    expect(try_out(page, "predict", "seven.png")).to_contain_text('"label": "7"')
    expect(try_out(page, "explain", "two.png")).to_contain_text('"cam"')


def test_docs_page_works_below_a_path_of_a_proxy(page: Page, shipped: Server) -> None:
    def proxy(route: Route) -> None:
        route.continue_(url=route.request.url.replace("/below/", "/"))

    page.route("**/below/**", proxy)
    with page.expect_request("**/below/predict*"):
        page.goto(f"{shipped.url}/below/docs")
        expect(try_out(page, "predict", "seven.png")).to_contain_text('"label": "7"')


def test_docs_page_may_load_nothing_from_other_hosts(shipped: Server) -> None:
    answer = httpx.get(f"{shipped.url}/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(
        each.split(" ", 1) for each in answer.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    sources = {source for value in policy.values() for source in value.split()}
    assert sources <= {"'none'", "'self'", "blob:", "data:"}
    for name in ("swagger-ui.css", "swagger-ui-bundle.js", "docs.js"):
        assert httpx.get(f"{shipped.url}/page/{name}").status_code == 200
        assert f'"page/{name}"' in answer.text


# A service that asks for keys


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("locked")
    (folder / "keys.toml").write_text(keys_text())
    with bentoml_serve(
        Settings().models,
        folder,
        LIMELIGHT_DEFAULT_MODEL="digits",
        LIMELIGHT_WORKERS="1",
        LIMELIGHT_KEYS_FILE=str(folder / "keys.toml"),
    ) as server:
        yield server


def test_page_asks_for_a_key_only_when_the_service_does_and_keeps_it_in_the_tab(
    browser: Browser, shipped: Server, locked: Server
) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(shipped.url)
    expect(page.locator("#model option").first).to_be_attached()
    expect(page.locator("#lock")).to_be_hidden()
    page.goto(locked.url)
    expect(page.locator("#lock")).to_be_visible()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    for key in ("wrong-key", KEYS["maps"]):
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Use this key").click()
        if key == "wrong-key":
            expect(page.locator("#notice")).to_contain_text("API key is not valid")
            expect(page.locator("#lock")).to_be_visible()
    expect(page.locator("#lock")).to_be_hidden()
    page.get_by_role("button", name="A handwritten 7").click()
    expect(page.locator("#verdict")).to_contain_text("7,")
    expect(page.locator("#curl")).to_contain_text("Bearer $LIMELIGHT_API_KEY")
    assert KEYS["maps"] not in page.content()
    assert KEYS["maps"] not in page.url
    page.reload()
    expect(page.locator("#model option").first).to_be_attached()
    page.goto(f"{locked.url}/docs")
    expect(try_out(page, "predict", "seven.png")).to_contain_text('"label": "7"')
    stored = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]")
    assert stored == [0, 1, ""]
    page.close()
    another = context.new_page()
    another.goto(locked.url)
    expect(another.locator("#lock")).to_be_visible()
    another.goto(f"{locked.url}/docs")
    expect(another.locator("#api")).to_contain_text("Enter it on the page at /")
    context.close()


def test_links_that_send_no_key_are_shown_only_if_the_service_asks_for_none(
    browser: Browser, shipped: Server, locked: Server
) -> None:
    page = browser.new_page()
    links = [page.get_by_role("link", name=name) for name in ("Models", "Metrics")]
    page.goto(shipped.url)
    expect(page.locator("#model option").first).to_be_attached()
    for link in links:
        expect(link).to_be_visible()
        assert httpx.get(f"{shipped.url}/{link.get_attribute('href')}").status_code == 200
    page.goto(locked.url)
    expect(page.locator("#lock")).to_be_visible()
    for link in links:
        expect(link).to_be_hidden()
    page.get_by_label("API key").fill(KEYS["chief"])
    page.get_by_role("button", name="Use this key").click()
    for _ in ("now", "after a reload"):
        expect(page.locator("#model option").first).to_be_attached()
        for link in links:
            expect(link).to_be_hidden()
        page.reload()
    page.close()
