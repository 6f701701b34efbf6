import subprocess
import sys

import airlora.channel


def test_public_names_exist_and_are_sorted_once():
    names = airlora.channel.__all__
    assert len(names) == len(set(names))
    assert all(hasattr(airlora.channel, name) for name in names)


def test_the_channel_needs_no_torch():
    code = "import sys, airlora.channel; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
