/* A CPU that macOS would report: dot products and bfloat16, no i8mm, float16 unknown. */
#include <sys/sysctl.h>

#include <stdint.h>
#include <string.h>

int sysctlbyname(const char *name, void *value, size_t *bytes, void *new_value, size_t new_bytes) {
    static const struct {
        const char *name;
        int64_t value;
        size_t bytes;
    } facts[] = {
        {"hw.optional.arm.FEAT_DotProd", 1, sizeof(int)},
        {"hw.optional.arm.FEAT_BF16", 1, sizeof(int)},
        {"hw.optional.arm.FEAT_I8MM", 0, sizeof(int)},
        {"hw.l3cachesize", 12 << 20, sizeof(int64_t)},
    };
    for (size_t k = 0; k < sizeof facts / sizeof *facts; k++) {
        if (new_value || new_bytes || strcmp(name, facts[k].name) != 0 || *bytes != facts[k].bytes) continue;
        memcpy(value, &facts[k].value, *bytes); /* little-endian */
        return 0;
    }
    return -1;
}
