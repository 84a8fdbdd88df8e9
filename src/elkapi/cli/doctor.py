"""`elkapi doctor`: the effective settings and every finding."""

from __future__ import annotations

import click

from elkapi.cli.output import json_option, print_facts, print_json
from elkapi.settings import load_settings


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Print the effective settings (secrets masked) and any problems. Exits with 1 if there are some."""
    from elkapi.admin.doctor import effective_settings, examine

    settings = load_settings()
    shown, findings = effective_settings(settings), examine(settings)
    healthy = all(finding.ok for finding in findings)
    if as_json:
        print_json({"settings": shown, "findings": findings, "ok": healthy})
        return 0 if healthy else 1
    print_facts(shown)
    click.echo()
    for finding in findings:
        click.echo(f"{'ok   ' if finding.ok else 'WRONG'}  {finding.name}: {finding.detail}")
    return 0 if healthy else 1
