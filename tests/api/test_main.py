import subprocess
import sys


def test_the_gateway_loads_neither_torch_nor_a_decoder():
    code = (
        "import sys, api.main; api.main.make_app(); "
        "print(sorted({'torch', 'torchvision', 'cv2', 'PIL', 'numpy'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
