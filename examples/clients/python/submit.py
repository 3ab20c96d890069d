"""Submits single messages and campaigns to Postrider, and waits for the end.

What a submitter has to get right is in `call`: repeat the same request, with the same idempotency key,
on any master, as long as the answer may be missing; give up on everything else.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path

import grpc
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parents[3] / "proto" / "proto"
CALL_SECONDS = 10
RETRY_SECONDS = 10
CHUNK_BYTES = 1024 * 1024
# The call may have happened, or nobody could answer: the same call again is right.
REPEAT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
}


def load_stubs():
    folder = tempfile.mkdtemp(prefix="postrider-stubs-")
    files = [str(path) for path in sorted((PROTO / "postrider" / "v1").glob("*.proto"))]
    arguments = ["protoc", f"-I{PROTO}", f"--python_out={folder}", f"--grpc_python_out={folder}", *files]
    if protoc.main(arguments) != 0:
        sys.exit(f"error: the files in {PROTO} cannot be compiled")
    sys.path.insert(0, folder)


load_stubs()
from postrider.v1 import admin_pb2, admin_pb2_grpc  # noqa: E402
from postrider.v1 import campaigns_pb2, campaigns_pb2_grpc, dispatch_pb2  # noqa: E402


class Masters:
    """One channel for each master; the next one is tried when one does not answer."""

    def __init__(self, urls):
        self.channels = [grpc.insecure_channel(url.removeprefix("http://")) for url in urls.split(",")]

    def call(self, stub, method, make_request):
        """`make_request` is called for each try, because a stream can be read only once."""
        until = time.monotonic() + RETRY_SECONDS
        turn = 0
        while True:
            channel = self.channels[turn % len(self.channels)]
            try:
                return getattr(stub(channel), method)(make_request(), timeout=CALL_SECONDS)
            except grpc.RpcError as error:
                if error.code() not in REPEAT or time.monotonic() > until:
                    sys.exit(f"error: {method}: {error.code().name}: {error.details()}")
            turn += 1
            time.sleep(min(0.1 * turn, 1.0))

    def wait(self, run_id):
        states = admin_pb2.RunState
        while True:
            request = admin_pb2.GetRunRequest(run_id=run_id)
            run = self.call(admin_pb2_grpc.AdminStub, "GetRun", lambda: request).run
            counts = run.recipients
            if run.state in (states.RUN_STATE_FINISHED, states.RUN_STATE_CANCELLED, states.RUN_STATE_FAILED):
                word = states.Name(run.state).removeprefix("RUN_STATE_").lower()
                print(f"{run_id} {word}: {counts.accepted} accepted of {counts.total}, {run.bad_rows} bad rows")
                if run.error.code:
                    print(f"{run.error.code}: {run.error.message}; {run.error.mend}")
                return run.state == states.RUN_STATE_FINISHED
            time.sleep(0.25)


def send(masters, arguments):
    message = dispatch_pb2.MessageDefinition(
        **{"from": "Acme <hello@acme.example>"},
        subject="Welcome, {{ name }}",
        text="Hello {{ name }},\n\nyour account is ready.\n\nAcme Ltd, 12 Example Street, 10115 Exampletown\n",
    )
    request = campaigns_pb2.SendMessageRequest(
        message=message,
        to=arguments.to,
        fields_json=json.dumps(dict(pair.split("=", 1) for pair in arguments.set)),
        idempotency_key=arguments.key,
    )
    return masters.call(campaigns_pb2_grpc.MessagesStub, "SendMessage", lambda: request)


def upload(masters, path):
    content = path.read_bytes()
    header = campaigns_pb2.AudienceHeader(
        format=campaigns_pb2.AUDIENCE_FORMAT_CSV,
        sha256=hashlib.sha256(content).hexdigest(),
    )

    def parts():
        yield campaigns_pb2.UploadAudienceRequest(header=header)
        for at in range(0, len(content), CHUNK_BYTES):
            yield campaigns_pb2.UploadAudienceRequest(chunk=content[at : at + CHUNK_BYTES])

    return masters.call(campaigns_pb2_grpc.CampaignsStub, "UploadAudience", parts).audience_id


def run(masters, arguments):
    audience = campaigns_pb2.AudienceSource(
        audience_id=upload(masters, arguments.csv),
        format=campaigns_pb2.AUDIENCE_FORMAT_CSV,
        address_field=arguments.address,
    )
    campaign = campaigns_pb2.Campaign(
        name=arguments.name,
        lane="bulk",
        audience=audience,
        message=dispatch_pb2.MessageDefinition(
            **{"from": "Acme News <news@acme.example>"},
            subject="News",
            text="Hello {{ email }},\n\nthere is news.\n\nAcme Ltd, 12 Example Street, 10115 Exampletown\n",
        ),
    )
    applied = campaigns_pb2.ApplyCampaignRequest(campaign=campaign)
    masters.call(campaigns_pb2_grpc.CampaignsStub, "ApplyCampaign", lambda: applied)
    request = campaigns_pb2.RunCampaignRequest(campaign=arguments.name, idempotency_key=arguments.key)
    return masters.call(campaigns_pb2_grpc.CampaignsStub, "RunCampaign", lambda: request)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--master", default="http://127.0.0.1:7400")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("send", help="one message")
    one.add_argument("--to", required=True)
    one.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    one.add_argument("--key", required=True, help="idempotency key: the same again sends nothing")
    one.set_defaults(act=send)
    many = commands.add_parser("run", help="a campaign for a CSV file")
    many.add_argument("--name", required=True)
    many.add_argument("--csv", required=True, type=Path)
    many.add_argument("--address", required=True, help="column with the address")
    many.add_argument("--key", required=True, help="idempotency key: the same again starts nothing")
    many.set_defaults(act=run)
    arguments = parser.parse_args()
    masters = Masters(arguments.master)
    answer = arguments.act(masters, arguments)
    print(f"{answer.run_id} {'created' if answer.created else 'known'}")
    sys.exit(0 if masters.wait(answer.run_id) else 1)


if __name__ == "__main__":
    main()
