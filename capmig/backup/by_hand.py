"""What a person does with backups: make one, list them, restore one. Each is done with the lock held."""

from __future__ import annotations

from dataclasses import replace

from capmig import stages
from capmig.backup import stages as backups
from capmig.backup.tool import ENDINGS, Tool
from capmig.entry import Phase
from capmig.errors import DeployFailed
from capmig.hand import Hand
from capmig.plan import Plan
from capmig.recover import Ending, recover
from capmig.report import amount


def back_up(hand: Hand, plan: Plan) -> Ending:
    """Make a backup while the app runs on, and remove the oldest."""
    tool = _tool(hand, plan)
    hand.timeline.step(f"Back {tool.subject.what} up")
    backups.dump(hand, plan.service, tool)
    backups.tidy(hand, plan)
    return replace(recover(hand), result="backed-up")


def show(hand: Hand, plan: Plan) -> Ending:
    """Show the backups that there are."""
    tool = _tool(hand, plan)
    hand.timeline.step("List the backups")
    found = backups.listed(hand, plan.service, tool)
    for name, size in found.items():
        hand.log.info(f"{name}  {amount(size)}")
    hand.log.notice(f"{hand.app} has {len(found)} backups.")
    return replace(recover(hand), result="listed")


def restore(hand: Hand, plan: Plan) -> Ending:
    """Stop the app, back its present state up, restore the wanted backup, and start the app again as it was."""
    tool = _tool(hand, plan)
    wanted = plan.inputs.backup_id
    found = backups.listed(hand, plan.service, tool)
    if wanted not in found:
        raise DeployFailed(
            f"{hand.app} has no backup {wanted} on the node that capmig is connected to.",
            todo=f"It has: {', '.join(found) or 'none'}. Give one of these as backup-id.",
        )
    engine = tool.subject.engine
    if not wanted.endswith(f".{ENDINGS[engine]}"):
        raise DeployFailed(
            f"{wanted} was not made with backup: {engine}.", todo="Give the input backup that it was made with."
        )
    stages.drain(hand)
    backups.back_up(hand, plan.service, tool)
    made = hand.journal.entry.backup_id
    hand.log.notice(f"The state from before the restore is kept as {made}.")
    hand.journal.write(phase=Phase.RESTORING, backup_id=wanted, backup_bytes=found[wanted], by_hand=True)
    ending = recover(hand)
    return replace(ending, result="database-restored") if ending.result == "restored" else ending


def _tool(hand: Hand, plan: Plan) -> Tool:
    tool = backups.check(hand, plan)
    if tool is None:
        raise DeployFailed("No database was found to back up.")
    return tool
