"""Commands as a user types them, in this process."""

from llmbrain import cli


def run(capsys, *args):
    """What a command prints, and how it ends."""
    code = 0
    try:
        cli.main([str(a) for a in args])
    except SystemExit as left:
        code = left.code
    said = capsys.readouterr()
    return code, said.out, said.err
