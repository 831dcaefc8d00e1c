"""Community voting: communities, members, questions with their tallies, and votes.

The events carry the new values and the counters that moved, so a handler copies and never counts. Options are no table of their
own: a question has at most ten, and a vote then changes one row instead of eleven; the view `options` unfolds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from programs.base58 import address_text
from projections.model import Event, Key, Projection, Redaction, Row, Rows, moment

_META = sa.MetaData()
# Few rows that change all the time: with room in its page a row's next version needs no entry in any index.
_ROOM = {"fillfactor": 40}


def _text(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.Text, nullable=False, **options)


def _address(name: str, **options: Any) -> sa.Column[Any]:
    # In the order of its bytes, whatever that of the database is: a language's order costs each index on it more, and may change with the system.
    return sa.Column(name, sa.Text(collation="C"), nullable=False, **options)


def _number(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger, nullable=False, default=0)


def _flag(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Boolean, nullable=False, default=False)


def _time(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True))


COMMUNITIES = sa.Table(
    "communities",
    _META,
    _address("community", primary_key=True),
    _address("creator"),
    _address("authority"),
    # u64: wider than bigint.
    sa.Column("id", sa.Numeric(20, 0), nullable=False),
    _text("name"),
    _text("description"),
    _text("join_policy"),
    _number("voting_period_min"),
    _number("voting_period_max"),
    _number("max_options"),
    _number("active_members"),
    _number("pending_members"),
    _number("questions"),
    _number("open_questions"),
    sa.Column("activations", sa.Numeric(20, 0), nullable=False),
    _flag("dissolved"),
    _time("created_at"),
    _time("updated_at"),
    _number("bump"),
    sa.Index("communities_newest", "created_at", "community"),
    postgresql_with=_ROOM,
)
MEMBERS = sa.Table(
    "members",
    _META,
    _address("member", primary_key=True),
    _address("community"),
    _address("wallet"),
    _text("role"),
    _text("status"),
    _flag("invited"),
    _time("created_at"),
    _time("active_since"),
    sa.Column("activation", sa.Numeric(20, 0), nullable=False),
    _time("updated_at"),
    _number("bump"),
    sa.Index("members_by_wallet", "wallet", "community"),
    sa.Index("members_by_community", "community", "wallet"),
)
QUESTIONS = sa.Table(
    "questions",
    _META,
    _address("question", primary_key=True),
    _address("community"),
    _address("author"),
    sa.Column("index", sa.BigInteger, nullable=False),
    _text("text"),
    sa.Column("options", ARRAY(sa.Text), nullable=False),
    _text("ballot_kind"),
    _number("max_selections"),
    _flag("allow_changes"),
    _number("quorum"),
    _text("eligibility"),
    sa.Column("activations_before", sa.Numeric(20, 0), nullable=False),
    _time("opens_at"),
    _time("closes_at"),
    _time("reveal_until"),
    _text("status"),
    sa.Column("tallies", ARRAY(sa.BigInteger), nullable=False),
    _number("ballots_cast"),
    _number("ballots_revealed"),
    _text("outcome"),
    sa.Column("winners", ARRAY(sa.BigInteger), nullable=False),
    _time("created_at"),
    _time("settled_at"),
    _number("bump"),
    sa.Index("questions_by_closing", "community", "status", "closes_at", "question"),
    sa.Index("questions_newest", "created_at", "question"),
    postgresql_with=_ROOM,
)
VOTES = sa.Table(
    "votes",
    _META,
    _address("vote", primary_key=True),
    _address("community"),
    _address("question"),
    _address("voter"),
    _text("status"),
    sa.Column("selections", ARRAY(sa.BigInteger), nullable=False),
    sa.Column("commitment", sa.Text),
    _flag("revealed"),
    _flag("anonymous"),
    # Stays set when a later ballot of the same voter is not anonymous: what was said before keeps its wish.
    _flag("anonymous_ever"),
    _flag("reclaimed"),
    _time("cast_at"),
    _time("updated_at"),
    _number("changes"),
    _number("bump"),
    # As the view shows the voter: an index on the bare column could not serve a reader's query. Votes of one wallet and second are few: sorting them
    # by address costs a reader nothing, and an address more in each entry costs every vote.
    sa.Index("votes_by_voter", sa.text("(CASE WHEN anonymous THEN NULL ELSE voter END)"), "cast_at"),
    # One ballot of one wallet, never a range: a hash costs half of a tree over two addresses to keep.
    sa.Index("votes_by_ballot", sa.text("(question || voter)"), postgresql_using="hash"),
    sa.Index("votes_by_question", "question", "vote"),
    sa.Index("votes_by_community", "community"),
)

_PROVENANCE = "created_slot, created_signature, updated_slot, updated_signature"
VIEWS = {
    "options": f"""SELECT q.question, q.community, (o.place - 1)::int AS option_index, o.text, o.tally,
        (o.place - 1) = ANY(q.winners) AS winner, {_PROVENANCE}
        FROM {{questions}} q CROSS JOIN LATERAL unnest(q.options, q.tallies) WITH ORDINALITY AS o(text, tally, place)""",
    "questions": f"""SELECT q.question, q.community, q.author, q.index, q.text, q.options, q.ballot_kind, q.max_selections,
        q.allow_changes, q.quorum, q.eligibility, q.activations_before, q.opens_at, q.closes_at, q.reveal_until, q.status,
        q.tallies, q.ballots_cast, q.ballots_revealed, q.outcome, q.winners, q.created_at, q.settled_at,
        (SELECT CASE WHEN c.active_members > 0 THEN round(q.ballots_cast::numeric / c.active_members, 4) END
           FROM {{communities}} c WHERE c.community = q.community) AS turnout, {_PROVENANCE}
        FROM {{questions}} q""",
    # The wish is about being shown beside the selections: the ballot stays, the voter does not.
    "votes": f"""SELECT vote, community, question, CASE WHEN anonymous THEN NULL ELSE voter END AS voter, status, selections,
        commitment, revealed, anonymous, reclaimed, cast_at, updated_at, changes, {_PROVENANCE} FROM {{votes}}""",
    "eligibility": """SELECT q.question, q.community, m.wallet, r.reason IS NULL AS may_vote, r.reason,
        q.created_slot, q.created_signature, greatest(q.updated_slot, m.updated_slot) AS updated_slot,
        CASE WHEN q.updated_slot >= m.updated_slot THEN q.updated_signature ELSE m.updated_signature END AS updated_signature
        FROM {questions} q JOIN {members} m ON m.community = q.community
        LEFT JOIN {votes} v ON v.question || v.voter = q.question || m.wallet AND v.question = q.question AND v.voter = m.wallet
            AND v.status <> 'withdrawn'
        CROSS JOIN LATERAL (SELECT CASE
            WHEN q.status = 'Cancelled' THEN 'the question was cancelled'
            WHEN q.status = 'Closed' THEN 'the question is closed'
            WHEN now() < q.opens_at THEN 'voting has not begun'
            WHEN now() >= q.closes_at THEN 'voting has ended'
            WHEN m.status = 'Pending' THEN 'membership is pending'
            WHEN m.status <> 'Active' THEN 'not an active member'
            WHEN q.eligibility = 'MembersBefore' AND m.activation > q.activations_before
                THEN 'became a member after the question was asked'
            WHEN v.vote IS NOT NULL AND q.allow_changes THEN 'has voted; the vote may be changed'
            WHEN v.vote IS NOT NULL THEN 'has voted' END AS reason) r""",
}


def choices(value: str) -> list[int]:
    """Option indexes. The IDL calls a vector of u8 bytes, so they come as hex."""
    return list(bytes.fromhex(value))


def _community_of(raw: bytes) -> str | None:
    # Every event begins with its community, behind the discriminator of eight bytes.
    return address_text(raw[8:40]) if len(raw) >= 40 else None


def _times(data: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: moment(data[name]) for name in names}


def _community_row(address: str, data: Mapping[str, Any]) -> tuple[str, Key, Row]:
    plain = {name: data[name] for name in ("creator", "authority", "id", "dissolved", "bump")}
    row = {**plain, **data["settings"], **data["counts"], **_times(data, "created_at", "updated_at")}
    return "communities", (address,), row


def _member_row(address: str, data: Mapping[str, Any]) -> tuple[str, Key, Row]:
    standing = data["standing"]
    times = _times(standing, "created_at", "active_since", "updated_at")
    return (
        "members",
        (address,),
        {"community": data["community"], "wallet": data["wallet"], **standing, **times, "bump": data["bump"]},
    )


def _question_row(address: str, data: Mapping[str, Any]) -> tuple[str, Key, Row]:
    times = _times(data, "opens_at", "closes_at", "reveal_until", "created_at", "settled_at")
    return "questions", (address,), {**data, **times, "winners": choices(data["winners"])}


def _vote_row(address: str, data: Mapping[str, Any]) -> tuple[str, Key, Row]:
    return (
        "votes",
        (address,),
        {**data, **_times(data, "cast_at", "updated_at"), "selections": choices(data["selections"])},
    )


def _gone(table: str, row: Row) -> bool:
    return table == "votes" and (row["reclaimed"] or row["status"] == "withdrawn")


VOTING = Projection(
    name="voting",
    version=3,
    tables=(COMMUNITIES, MEMBERS, QUESTIONS, VOTES),
    scope="community",
    scope_of_raw=_community_of,
    views=VIEWS,
    redactions=(Redaction(table="votes", event_field="vote", flag="anonymous_ever", fields=("voter",)),),
    accounts={"Community": _community_row, "Member": _member_row, "Question": _question_row, "Vote": _vote_row},
    gone=_gone,
)


@VOTING.on("CommunityCreated", communities="community")
def community_created(rows: Rows, event: Event) -> None:
    """A community begins."""
    data = event.data
    at = moment(data["timestamp"])
    rows.communities.put(
        data["community"], creator=data["creator"], authority=data["authority"], id=data["id"], **data["settings"],
        **data["counts"], bump=data["bump"], created_at=at, updated_at=at,
    )  # fmt: skip


@VOTING.on("CommunityUpdated", communities="community")
def community_updated(rows: Rows, event: Event) -> None:
    """Its settings as a whole are new."""
    data = event.data
    rows.communities.update(data["community"], **data["settings"], updated_at=moment(data["timestamp"]))


@VOTING.on("AuthorityTransferred", communities="community")
def authority_transferred(rows: Rows, event: Event) -> None:
    """Another wallet decides; the change of its role comes as an event of its own."""
    data = event.data
    rows.communities.update(data["community"], authority=data["authority"], updated_at=moment(data["timestamp"]))


@VOTING.on("CommunityDissolved", communities="community")
def community_dissolved(rows: Rows, event: Event) -> None:
    """It ends; its rows stay."""
    rows.communities.update(event.data["community"], dissolved=True, updated_at=moment(event.data["timestamp"]))


def _member_moved(rows: Rows, event: Event) -> None:
    data = event.data
    standing = data["standing"]
    values = {
        **standing,
        "created_at": moment(standing["created_at"]),
        "active_since": moment(standing["active_since"]),
        "updated_at": moment(standing["updated_at"]),
        "community": data["community"],
        "wallet": data["wallet"],
        "bump": data["bump"],
    }
    if rows.members.get(data["member"]) is None:
        rows.members.put(data["member"], **values)
    else:
        rows.members.update(data["member"], **values)
    rows.communities.update(data["community"], **data["counts"])


for _name in ("Requested", "Joined", "Invited", "Approved", "Rejected", "Left", "Removed", "RoleChanged"):
    VOTING.on(f"Member{_name}", members="member", communities="community")(_member_moved)


@VOTING.on("QuestionCreated", questions="question", communities="community")
def question_created(rows: Rows, event: Event) -> None:
    """A question is asked; nobody has voted."""
    data = event.data
    same = (
        "community",
        "author",
        "index",
        "text",
        "options",
        "ballot_kind",
        "max_selections",
        "allow_changes",
        "quorum",
    )
    rows.questions.put(
        data["question"], **{name: data[name] for name in same}, eligibility=data["eligibility"],
        activations_before=data["activations_before"], opens_at=moment(data["opens_at"]), closes_at=moment(data["closes_at"]),
        reveal_until=moment(data["reveal_until"]), status="Open", tallies=[0] * len(data["options"]), outcome="Undecided",
        winners=[], created_at=moment(data["timestamp"]), bump=data["bump"],
    )  # fmt: skip
    rows.communities.update(data["community"], **data["counts"])


@VOTING.on("QuestionCancelled", questions="question", communities="community")
def question_cancelled(rows: Rows, event: Event) -> None:
    """It was called off before its end."""
    data = event.data
    rows.questions.update(data["question"], status="Cancelled", settled_at=moment(data["timestamp"]))
    rows.communities.update(data["community"], **data["counts"])


@VOTING.on("QuestionClosed", questions="question", communities="community")
def question_closed(rows: Rows, event: Event) -> None:
    """The outcome."""
    data = event.data
    same = ("outcome", "tallies", "ballots_cast", "ballots_revealed")
    rows.questions.update(
        data["question"],
        **{name: data[name] for name in same},
        winners=choices(data["winners"]),
        status="Closed",
        settled_at=moment(data["timestamp"]),
    )
    rows.communities.update(data["community"], **data["counts"])


def _new_vote(rows: Rows, data: Mapping[str, Any], status: str, selections: list[int], commitment: str | None) -> None:
    vote, anonymous, at = data["vote"], data["anonymous"], moment(data["timestamp"])
    before = rows.votes.get(vote)
    rows.votes.put(
        vote, community=data["community"], question=data["question"], voter=data["voter"], status=status, selections=selections,
        commitment=commitment, anonymous=anonymous, anonymous_ever=anonymous or (before is not None and before["anonymous_ever"]),
        cast_at=at, updated_at=at, bump=data["bump"],
    )  # fmt: skip


def _changed_vote(rows: Rows, event: Event, **ballot: Any) -> None:
    data = event.data
    before = rows.votes.get(data["vote"])
    rows.votes.update(
        data["vote"], anonymous=data["anonymous"], anonymous_ever=data["anonymous"] or bool(before and before["anonymous_ever"]),
        changes=data["changes"], updated_at=moment(data["timestamp"]), **ballot,
    )  # fmt: skip


@VOTING.on("VoteCast", votes="vote", questions="question")
def vote_cast(rows: Rows, event: Event) -> None:
    """An open ballot. After a withdrawal the vote's account is a new one, and so is the row."""
    data = event.data
    _new_vote(rows, data, "cast", choices(data["selections"]), None)
    rows.questions.update(data["question"], tallies=data["tallies"], ballots_cast=data["ballots_cast"])


@VOTING.on("VoteChanged", votes="vote", questions="question")
def vote_changed(rows: Rows, event: Event) -> None:
    """Other selections."""
    data = event.data
    _changed_vote(rows, event, selections=choices(data["selections"]))
    rows.questions.update(data["question"], tallies=data["tallies"], ballots_cast=data["ballots_cast"])


@VOTING.on("VoteWithdrawn", votes="vote", questions="question")
def vote_withdrawn(rows: Rows, event: Event) -> None:
    """The account is gone; the row tells that there was one."""
    data = event.data
    rows.votes.update(
        data["vote"], status="withdrawn", selections=[], commitment=None, updated_at=moment(data["timestamp"])
    )
    rows.questions.update(data["question"], tallies=data["tallies"], ballots_cast=data["ballots_cast"])


@VOTING.on("VoteCommitted", votes="vote", questions="question")
def vote_committed(rows: Rows, event: Event) -> None:
    """A sealed ballot: it counts as cast, and for nothing yet."""
    data = event.data
    _new_vote(rows, data, "sealed", [], data["commitment"])
    rows.questions.update(data["question"], ballots_cast=data["ballots_cast"])


@VOTING.on("CommitmentChanged", votes="vote", questions="question")
def commitment_changed(rows: Rows, event: Event) -> None:
    """Another sealed ballot in place of the first."""
    data = event.data
    _changed_vote(rows, event, commitment=data["commitment"])
    rows.questions.update(data["question"], ballots_cast=data["ballots_cast"])


@VOTING.on("VoteRevealed", votes="vote", questions="question")
def vote_revealed(rows: Rows, event: Event) -> None:
    """The sealed ballot is opened and counted."""
    data = event.data
    rows.votes.update(
        data["vote"],
        status="revealed",
        revealed=True,
        selections=choices(data["selections"]),
        updated_at=moment(data["timestamp"]),
    )
    rows.questions.update(
        data["question"],
        tallies=data["tallies"],
        ballots_cast=data["ballots_cast"],
        ballots_revealed=data["ballots_revealed"],
    )


@VOTING.on("VoteReclaimed", votes="vote")
def vote_reclaimed(rows: Rows, event: Event) -> None:
    """The rent went back to the voter; the vote stands, without an account to compare it with."""
    rows.votes.update(event.data["vote"], reclaimed=True)
