/* Counts words: what is between ASCII white space. */

#include "ipdc.h"

static bool is_space(uint8_t byte) { return byte == ' ' || (byte >= '\t' && byte <= '\r'); }

static void words_of(ipdc_bytes line) {
    uint32_t start = 0;
    for (uint32_t at = 0; at <= line.len; at++) {
        if (at < line.len && !is_space(line.ptr[at])) continue;
        if (at > start) ipdc_emit((ipdc_bytes){line.ptr + start, at - start}, IPDC_TEXT("1"));
        start = at + 1;
    }
}

/* The host gives many lines at a time. */
static void words(ipdc_bytes text) {
    ipdc_bytes line;
    while (ipdc_next_line(&text, &line)) words_of(line);
}

IPDC_MAP(words)
