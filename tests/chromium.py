"""A real headless Chromium for the tests of pages, and what they skip by when it is not there."""

import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no Chromium with its driver here (apt-get install chromium chromium-driver)"
    ),
]
FLAGS = (
    "--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--window-size=1280,900",
)  # fmt: skip
ANSWER = 60  # seconds that a command may take; selenium would wait two minutes


def start(profile, *flags, logs=("browser",)):
    """Start a browser with a profile of its own."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, *flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", dict.fromkeys(logs, "ALL"))
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.command_executor.client_config.timeout = ANSWER
    driver.set_page_load_timeout(ANSWER / 2)
    driver.set_script_timeout(ANSWER / 3)
    return driver


def show(driver, address, width=1280, theme="light"):
    """Open a page afresh on a screen of some width."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    )
    driver.get("about:blank")
    driver.get(address)
