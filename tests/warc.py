"""Reads a WARC file as warcio does, digests checked, and prints a JSON line for each record."""

import json
import sys

from warcio.archiveiterator import ArchiveIterator

with open(sys.argv[1], "rb") as file:
    for record in ArchiveIterator(file, check_digests="raise"):
        headers = record.rec_headers
        http = record.http_headers
        body = record.content_stream().read()
        assert headers.protocol == "WARC/1.1", headers.protocol
        print(
            json.dumps(
                {
                    "type": record.rec_type,
                    "id": headers["WARC-Record-ID"],
                    "date": headers["WARC-Date"],
                    "uri": headers["WARC-Target-URI"],
                    "ip": headers["WARC-IP-Address"],
                    "status": http and http.get_statuscode(),
                    "headers": http and http.headers,
                    "body": body.decode("latin-1"),
                }
            )
        )
