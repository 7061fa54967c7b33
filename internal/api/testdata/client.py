# SPDX-License-Identifier: Apache-2.0
"""Calls methods with requests in hex, and prints their answers in hex.

usage: client.py SOCKET METHOD=REQUEST...

A line for each call: OK and the answer, or the code, the details and the status in
hex. The C core of gRPC speaks here, and nothing generated from the protocol.
"""

import sys

import grpc


def same(data):
    return data


def main(socket, calls):
    with grpc.insecure_channel("unix:" + socket) as channel:
        for call in calls:
            method, request = call.split("=")
            try:
                answer = channel.unary_unary(method, same, same)(bytes.fromhex(request), timeout=10)
                print("OK", answer.hex())
            except grpc.RpcError as error:
                status = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
                print(error.code().name, repr(error.details()), status.hex())


main(sys.argv[1], sys.argv[2:])
