/* `combine` and `reduce` emit each value of a key again. */

#include "ipdc.h"

static void echo(ipdc_bytes key, ipdc_values values) {
    ipdc_bytes value;
    while (ipdc_next_value(&values, &value)) ipdc_emit(key, value);
}

IPDC_COMBINE(echo)
IPDC_REDUCE(echo)
