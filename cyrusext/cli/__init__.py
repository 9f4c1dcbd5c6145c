"""The command ``cyrusext``: one module per family of commands.

Rule: a command is quiet when it did what it was asked, tells faults on standard error, and ends with 0 done, 1 absent
or finding, 2 usage, 69 unavailable, 75 temporary, 78 configuration (docs/exit-codes.md).
"""


def main() -> None:
    """Run the command line of this process and exit."""
    # Loaded here: ``lmtp-router`` has its options from this package, and its workers keep what is loaded.
    from cyrusext.cli.commands import cli

    cli(prog_name="cyrusext")
