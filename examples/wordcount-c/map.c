/* Counts words: what is between ASCII white space. */

#include "ipdc.h"

static bool is_space(uint8_t byte) { return byte == ' ' || (byte >= '\t' && byte <= '\r'); }

static void words(ipdc_bytes text) {
    uint32_t start = 0;
    for (uint32_t at = 0; at <= text.len; at++) {
        if (at < text.len && !is_space(text.ptr[at])) continue;
        if (at > start) ipdc_emit((ipdc_bytes){text.ptr + start, at - start}, IPDC_TEXT("1"));
        start = at + 1;
    }
}

IPDC_MAP(words)
