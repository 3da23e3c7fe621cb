/* Emits the words, a line each, that are neither in the side file `stops` (read a few bytes at a time) nor
 * shorter than the param `shortest`: the param `mark` and the word, with the name of the input. Counts the
 * others. */

#include "ipdc.h"

enum { ROOM = 4096, PIECE = 7 };

static uint8_t room[ROOM], stops[ROOM], key[ROOM];

static bool is_stop(ipdc_bytes word, ipdc_bytes all) {
    ipdc_bytes stop;
    while (ipdc_next_line(&all, &stop)) {
        if (ipdc_is(stop, word)) return true;
    }
    return false;
}

static ipdc_bytes read_stops(void) {
    ipdc_bytes name = IPDC_TEXT("stops");
    uint32_t len = 0;
    while (len < ipdc_file_len(name)) len += ipdc_file_read(name, len, stops + len, PIECE);
    return (ipdc_bytes){stops, len};
}

static uint32_t shortest(void) {
    ipdc_bytes value;
    if (!ipdc_param(IPDC_TEXT("shortest"), room, ROOM, &value)) return 0;
    uint32_t number = 0;
    for (uint32_t at = 0; at < value.len; at++) number = number * 10 + value.ptr[at] - '0';
    return number;
}

static void words(ipdc_bytes text) {
    if (ipdc_file_len(IPDC_TEXT("none")) != -1) __builtin_trap();
    uint32_t least = shortest();
    ipdc_bytes all = read_stops(), mark, line;
    if (!ipdc_param(IPDC_TEXT("mark"), room, ROOM, &mark)) __builtin_trap();
    if (ipdc_param(IPDC_TEXT("none"), key, ROOM, &line)) __builtin_trap();
    uint8_t input[16];
    ipdc_bytes from = {input, ipdc_input(input, sizeof input)};
    uint64_t skipped = 0;
    while (ipdc_next_line(&text, &line)) {
        if (line.len < least || is_stop(line, all)) {
            skipped++;
            continue;
        }
        __builtin_memcpy(key, mark.ptr, mark.len);
        __builtin_memcpy(key + mark.len, line.ptr, line.len);
        ipdc_emit((ipdc_bytes){key, mark.len + line.len}, from);
    }
    ipdc_count(IPDC_TEXT("skipped"), skipped);
}

IPDC_MAP(words)
