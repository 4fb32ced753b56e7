"""What three processes send each other, and what one notices when another dies."""

import textwrap

from launching import launch


def script(tmp_path, code):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    return path


def test_three_processes_add_up_what_one_sees_and_notice_a_death(tmp_path):
    code = """
    import os, sys, time, torch
    from pathlib import Path
    from llmbrain.exceptions import DatasetError, ParallelError, ParameterError
    from llmbrain import parallel as p
    from llmbrain.stats import Moments

    folder = Path(sys.argv[1])
    x = 100 + torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    y = x[:, :2] + torch.randn(50, 2, generator=torch.Generator().manual_seed(1))
    with p.processes():
        r = p.rank()
        assert p.world_size() == 3 and p.main_process() == (r == 0)
        assert p.share(range(2)) == ([0], [1], [])[r]  # one process without work
        with p.alone():
            assert p.share(range(2)) == [0, 1] and p.world_size() == 1
        assert p.all_reduce(torch.full((2, 3), float(r)).T).tolist() == [[3.0] * 2] * 3
        mine = p.reduce_to(torch.tensor([r + 1.0]), 1)
        assert r != 1 or mine.item() == 6
        assert p.broadcast(torch.tensor([r]), 2).item() == 2

        one, full = Moments(6, 2), Moments(6, 2)
        full.add(x, y)
        if r:  # the first process has seen no token
            part = slice(0, 13) if r == 1 else slice(13, 50)
            one.add(x[part], y[part], torch.ones(50)[part])
        total = one.all_reduce()
        assert total.n == 50 and one.n == (0, 13, 37)[r]
        for name in ("mean", "covariance", "cross_covariance", "target_mean", "target_variance"):
            torch.testing.assert_close(getattr(total, name), getattr(full, name), rtol=1e-5, atol=1e-5)
        bits = total.sums["second"].clone()
        assert torch.equal(p.broadcast(bits), total.sums["second"])
        owned = one.reduce_to(2)
        if r == 2:
            torch.testing.assert_close(owned.covariance, full.covariance, rtol=1e-5, atol=1e-5)
        assert Moments(3).all_reduce().n == 0

        p.agree("text", "same", b"bytes")
        try:
            p.agree("text", "other" if r == 2 else "same")
        except ParameterError as error:
            assert "process 3 of 3" in str(error), error
        else:
            raise AssertionError("not refused")
        p.check_shared_folder(folder / "study")
        p.messages._SECONDS_UNTIL_VISIBLE = 1
        local = folder / "machine" / str(r)  # as on three machines without a shared file system
        local.mkdir(parents=True)
        try:
            p.check_shared_folder(local)
        except DatasetError as error:
            assert "2, 3 of 3" in str(error), error
        else:
            raise AssertionError("not refused")
        p.barrier()
        assert not list(folder.rglob(".shared-*"))

        if r == 1:
            os.kill(os.getpid(), 9)
        start = time.monotonic()
        try:
            p.barrier()
        except ParallelError as error:
            assert "lost another one" in str(error) and time.monotonic() - start < 30
        else:
            raise AssertionError("not noticed")
    assert p.world_size() == 1
    """
    found = launch([script(tmp_path, code), tmp_path], n=3, preload="torch")
    assert [code for code, _, _ in found] == [0, -9, 0], found
