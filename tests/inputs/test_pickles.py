import enum
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from arca_diag.inputs.pickles import read_training_args
from tests.inputs import SAMPLE, write_torch_pickle


class Arguments:
    """Pickled as a trainer's arguments are: an object with fields."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class Strategy(enum.Enum):
    STEPS = "steps"


class Level(enum.IntEnum):
    HIGH = 3


class Planted:
    """What a hostile run would leave: unpickled, it runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


#: A new object on the stack.
NEW = b"ctrl\nC\n)\x81"

#: Numbers that are 2**100 modulo 2**61 - 1, each with None: a dict looks at all to place one.
COLLIDING = b"".join(
    b"\x8a\x0e" + (2**100 + i * (2**61 - 1)).to_bytes(14, "little") + b"N" for i in range(60_000)
)


def read(tmp_path: Path, content: Any, protocol: int = 2) -> dict[str, Any]:
    return read_training_args(write_torch_pickle(tmp_path / "a.bin", content, protocol))


class TestWhatIsRead:
    def test_the_samples_arguments_say_what_replay_needs(self):
        found = read_training_args(SAMPLE / "checkpoint-2" / "training_args.bin")
        assert found["temperature"] == 1.0
        assert found["num_generations"] == 16
        assert found["max_completion_length"] == 48
        assert found["logging_steps"] == 1
        assert found["save_strategy"] == "no"

    @pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
    def test_plain_values_come_back_as_they_were(self, tmp_path, protocol):
        fields = {"a": 0.7, "b": 3, "c": True, "d": "text", "e": [1, "x"], "f": {"k": [2.5]}}
        assert read(tmp_path, Arguments(**fields), protocol) == fields

    def test_an_enumeration_becomes_the_value_that_it_wraps(self, tmp_path):
        found = read(tmp_path, Arguments(strategy=Strategy.STEPS, level=Level.HIGH))
        assert found == {"strategy": "steps", "level": 3}

    def test_tuples_become_lists(self, tmp_path):
        assert read(tmp_path, Arguments(betas=(0.9, 0.99))) == {"betas": [0.9, 0.99]}

    def test_what_is_not_plain_is_left_out(self, tmp_path):
        found = read(tmp_path, Arguments(a=1, none=None, thing=Arguments(x=1), path=Path("/x/y")))
        assert found == {"a": 1}

    def test_objects_with_slots_are_read(self, tmp_path):
        state = (None, {"temperature": 0.5})
        payload = b"\x80\x02ctrl\nConfig\n)\x81" + pickle.dumps(state, 2)[2:-1] + b"b."
        assert read(tmp_path, payload) == {"temperature": 0.5}


class TestWhatIsHostile:
    @pytest.mark.parametrize("place", ["top", "field", "key"])
    def test_a_planted_pickle_runs_nothing(self, tmp_path, place):
        flag = tmp_path / "it-ran"
        planted = Planted(f"touch {flag}")
        content = {
            "top": planted,
            "field": Arguments(temperature=0.7, bad=planted),
            "key": {planted: 1},
        }[place]
        read(tmp_path, content)
        assert not flag.exists()

    def test_the_plant_would_have_worked(self, tmp_path):
        flag = tmp_path / "it-ran"
        pickle.loads(pickle.dumps(Planted(f"touch {flag}")))
        assert flag.exists()

    def test_no_module_that_it_names_is_imported(self, tmp_path):
        (tmp_path / "planted_module.py").write_text("raise SystemExit('imported')")
        payload = b"cplanted_module\nanything\n)R."
        sys.path.insert(0, str(tmp_path))
        try:
            assert read(tmp_path, payload) == {}
        finally:
            sys.path.remove(str(tmp_path))
        assert "planted_module" not in sys.modules

    def test_a_field_beside_a_planted_one_is_still_read(self, tmp_path):
        found = read(tmp_path, Arguments(temperature=0.7, bad=Planted("exit 1")))
        assert found["temperature"] == 0.7

    def test_persistent_references_are_inert(self, tmp_path):
        payload = b"\x80\x02ctrl\nConfig\n)\x81}(X\x01\x00\x00\x00aX\x01\x00\x00\x00pQ"
        payload += b"X\x01\x00\x00\x00cK\x01ub."
        assert read(tmp_path, payload) == {"a": "p", "c": 1}

    def test_extension_codes_stand_for_nothing(self, tmp_path):
        assert read(tmp_path, b"\x80\x02\x82\x07)\x81}(X\x01\x00\x00\x00aK\x01ub.") == {}

    @pytest.mark.parametrize("field", [10**5000, [[[[[[[1]]]]]]]], ids=["long", "deep"])
    def test_strange_values_do_not_stop_the_reading(self, tmp_path, field):
        assert read(tmp_path, Arguments(temperature=0.7, strange=field))["temperature"] == 0.7

    def test_a_number_too_long_to_be_a_name_is_no_fault_of_ours(self, tmp_path):
        state = pickle.dumps({10**5000: 1}, 2)[2:-1]
        payload = b"\x80\x02ctrl\nConfig\n)\x81" + state + b"b."
        assert read(tmp_path, payload) == {}

    def test_a_list_of_lists_of_one_list_does_not_unfold(self, tmp_path):
        """A few thousand opcodes that stand for 10^15 values."""
        value: Any = 1
        for _ in range(5):
            value = [value] * 1000
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        code = (
            "import resource, sys; from pathlib import Path\n"
            "resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
            "resource.setrlimit(resource.RLIMIT_CPU, (4, 4))\n"
            "from arca_diag.inputs.pickles import read_training_args\n"
            "read_training_args(Path(sys.argv[1]))"
        )
        path = write_torch_pickle(tmp_path / "a.bin", Arguments(temperature=0.7, bomb=value))
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-300:]
        assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 10

    def test_a_memo_place_far_out_takes_no_memory(self, tmp_path):
        """The unpickler makes room for every place before it: 24 bytes can ask for 64 GiB."""
        path = write_torch_pickle(
            tmp_path / "a.bin", b"\x80\x02}r" + struct.pack("<I", 2**26) + b"."
        )
        code = (
            "import resource, sys; from pathlib import Path\n"
            "from arca_diag.inputs.pickles import read_training_args\n"
            "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "before = peak(); read_training_args(Path(sys.argv[1]))\n"
            "print(peak() - before)"
        )
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
        assert int(done.stdout) < 100 * 1024  # KiB

    def test_a_planted_file_is_not_written(self, tmp_path):
        """As protocol 0 writes `open(path, 'w')`: a name, its arguments, and the call."""
        flag = tmp_path / "written"
        payload = f"(i__builtin__\nopen\n(V{flag}\nVw\ncio\nopen\n(V{flag}\nVw\ntR.".encode()
        for planted in (payload, f"cio\nopen\n(V{flag}\nVw\ntR.".encode()):
            assert read(tmp_path, planted) == {}
            assert not flag.exists()
        pickle.loads(planted).close()
        assert flag.exists()

    @pytest.mark.parametrize(
        "payload",
        [
            pytest.param(b"})" + b"\x85" * 150_000 + b"K\x01s.", id="a deep tuple as key"),
            pytest.param(b"})" + b"2\x86" * 60 + b"K\x01s.", id="a doubling tuple as key"),
            pytest.param(b"(" * 90_000 + b"\x91" * 90_000 + b".", id="a set of a set"),
            pytest.param(b"}(" + COLLIDING + b"u.", id="numbers that hash alike as keys"),
            pytest.param(NEW + b"]" * 90_000 + b"a" * 89_999 + b"b.", id="a deep list"),
            pytest.param(NEW * 2 + b"b" + (NEW + b"2R") * 30_000 + b"b.", id="a deep object"),
            pytest.param(NEW + b"]\x94h\x00ab.", id="a list in itself"),
        ],
    )
    def test_what_hangs_or_crashes_an_unpickler_is_read_in_no_time(self, tmp_path, payload):
        """In a process of its own, since a stack that overflows ends it."""
        path = write_torch_pickle(tmp_path / "a.bin", b"\x80\x04" + payload)
        code = (
            "import resource, sys; from pathlib import Path\n"
            "resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
            "resource.setrlimit(resource.RLIMIT_CPU, (5, 5))\n"
            "from arca_diag.inputs.pickles import read_training_args\n"
            "print(read_training_args(Path(sys.argv[1])))"
        )
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-300:]
        assert done.stdout == "{}\n"

    def test_a_number_that_no_float_holds_is_left_out(self, tmp_path):
        assert read(tmp_path, Arguments(a=2**63 - 1, b=2**63, c=-(10**400))) == {"a": 2**63 - 1}

    def test_the_state_of_one_object_is_not_anothers(self, tmp_path):
        """The state is given to a name, as if to a class; an object without one follows."""
        payload = b"\x80\x02ctrl\nC\n}(X\x01\x00\x00\x00aK\x01ub0ctrl\nC\n)\x81."
        assert read(tmp_path, payload) == {}

    def test_a_named_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "a.bin")
        assert read_training_args(tmp_path / "a.bin") == {}


class TestWhatTellsNothing:
    def test_more_opcodes_than_any_trainer_writes(self, tmp_path):
        assert read(tmp_path, Arguments(a=1, many=list(range(90_000)))) != {}
        assert read(tmp_path, Arguments(a=1, many=list(range(210_000)))) == {}

    def test_a_pickle_over_the_size_limit(self, tmp_path):
        assert read(tmp_path, Arguments(a=1, text="x" * (4 * 2**20 - 1000))) != {}
        assert read(tmp_path, Arguments(a=1, text="x" * (4 * 2**20 + 1))) == {}

    def test_a_short_pickle_in_a_member_over_the_size_limit(self, tmp_path):
        whole = pickle.dumps(Arguments(a=1), 2)
        assert read(tmp_path, whole + bytes(100)) == {"a": 1}
        assert read(tmp_path, whole + bytes(4 * 2**20)) == {}

    @pytest.mark.parametrize(("members", "expected"), [(60, {"a": 1}), (90, {})])
    def test_an_archive_with_a_long_directory(self, tmp_path, members, expected):
        path = write_torch_pickle(tmp_path / "a.bin", Arguments(a=1))
        with zipfile.ZipFile(path, "a") as archive:
            for number in range(members):
                archive.writestr(f"{number:05d}" * 10_000, b"x")  # named in two places each
        assert (path.stat().st_size > 8 * 2**20) == (expected == {})
        assert read_training_args(path) == expected

    @pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_a_compressed_pickle(self, tmp_path, method):
        with zipfile.ZipFile(tmp_path / "a.bin", "w", method) as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Arguments(a=1)))
        assert read_training_args(tmp_path / "a.bin") == {}

    @pytest.mark.parametrize("payload", [b".", b"0.", b"a.", b"t.", b"1.", b"h\x07.", b"(K\x01d."])
    def test_a_pickle_that_takes_what_is_not_there(self, tmp_path, payload):
        assert read(tmp_path, payload) == {}

    @pytest.mark.parametrize("left", [0, 1, 30, -1])
    def test_a_truncated_pickle(self, tmp_path, left):
        whole = pickle.dumps(Arguments(temperature=0.7, more="x" * 50), 2)
        assert read(tmp_path, whole[:left]) == {}

    @pytest.mark.parametrize("content", [b"", b"not a zip", pickle.dumps(Arguments(a=1))])
    def test_a_file_that_is_no_archive(self, tmp_path, content):
        path = tmp_path / "a.bin"
        path.write_bytes(content)
        assert read_training_args(path) == {}

    def test_an_archive_without_a_pickle(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.bin", "w") as archive:
            archive.writestr("archive/other.pkl", pickle.dumps(Arguments(a=1)))
        assert read_training_args(tmp_path / "a.bin") == {}

    def test_a_truncated_archive(self, tmp_path):
        path = write_torch_pickle(tmp_path / "a.bin", Arguments(a=1, text="x" * 500))
        path.write_bytes(path.read_bytes()[:-30])
        assert read_training_args(path) == {}

    def test_an_archive_with_a_damaged_member(self, tmp_path):
        path = write_torch_pickle(tmp_path / "a.bin", Arguments(a=1, text="x" * 500))
        path.write_bytes(path.read_bytes().replace(b"xxxx", b"yyyy", 1))
        assert read_training_args(path) == {}

    @pytest.mark.parametrize("top", [{"temperature": 0.7}, [1], "text", None], ids=repr)
    def test_a_pickle_of_something_else(self, tmp_path, top):
        assert read(tmp_path, top) == {}

    def test_no_file(self, tmp_path):
        assert read_training_args(tmp_path / "none.bin") == {}
