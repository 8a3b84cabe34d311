#include "ort_kernel.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "allocate.h"

enum { HEAD = 64 }; /* bytes before a copy */

ort_status *ort_error(const ort_api *api, const char *name, const char *format, ...) {
    char text[512];
    int length = snprintf(text, sizeof text, "qnumpy.%s: ", name);
    va_list arguments;
    va_start(arguments, format);
    length += vsnprintf(text + length, sizeof text - (size_t)length, format, arguments);
    va_end(arguments);
    if (length < (int)sizeof text - 1) text[length] = '.', text[length + 1] = 0;
    return ORT(api, create_status)(ORT_INVALID_ARGUMENT, text);
}

ort_status *ort_no_memory(const ort_api *api, const char *name) {
    char text[64];
    snprintf(text, sizeof text, "qnumpy.%s: there is no memory.", name);
    return ORT(api, create_status)(ORT_FAIL, text);
}

static ort_status *read_tensor(const ort_api *api, const char *name, const ort_value *value, ort_tensor *t) {
    ort_shape *shape;
    ort_status *s = ORT(api, tensor_shape)(value, &shape);
    if (s) return s;
    s = ORT(api, element_type)(shape, &t->type);
    if (!s) s = ORT(api, dim_count)(shape, &t->rank);
    if (!s && t->rank > ORT_MOST_DIMS) s = ort_error(api, name, "an input must have at most 16 axes; got %zu", t->rank);
    if (!s) s = ORT(api, dims)(shape, t->dims, t->rank);
    ORT(api, release_shape)(shape);
    return s ? s : ORT(api, tensor_data)((ort_value *)value, &t->data);
}

static size_t itemsize(int type) { return type == ORT_INT8 || type == ORT_UINT8 ? 1 : 4; } /* of constants */

ort_status *ort_align(const ort_node *n, ort_tensor *t, size_t alignment) {
    if ((uintptr_t)t->data % alignment == 0) return NULL;
    const int64_t bytes = ort_elements(t->dims, t->rank) * (int64_t)itemsize(t->type);
    ort_copy *copy = qn_allocate(1, HEAD + bytes);
    if (!copy) return ort_no_memory(n->api, n->name);
    t->data = memcpy((char *)copy + HEAD, t->data, (size_t)bytes);
    copy->next = *n->copies, *n->copies = copy;
    return NULL;
}

void ort_free_copies(ort_copy *copies) {
    for (ort_copy *next; copies; copies = next) next = copies->next, free(copies);
}

ort_status *ort_constant(const ort_node *n, size_t i, const char *input, int type, size_t rank, ort_tensor *t) {
    size_t inputs;
    *t = (ort_tensor){0};
    ort_status *s = ORT(n->api, info_input_count)(n->info, &inputs);
    if (s || i >= inputs) return s;
    int is_constant = 0;
    const ort_value *value = NULL;
    size_t size = 0; /* with the byte that ends it: an empty name is an input that is left out */
    if ((s = ORT(n->api, input_name)(n->info, i, NULL, &size)) || size <= 1) return s;
    if ((s = ORT(n->api, constant_input)(n->info, i, &is_constant, &value))) return s;
    if (!is_constant || !value)
        return ort_error(n->api, n->name, "%s must be a constant of the graph of the node; got one that is computed",
                         input);
    if ((s = read_tensor(n->api, n->name, value, t))) return s;
    if (t->type != type)
        return ort_error(n->api, n->name, "%s must be of element type %d; got %d", input, type, t->type);
    if (t->rank != rank) return ort_error(n->api, n->name, "%s must have %zu axes; got %zu", input, rank, t->rank);
    return ort_align(n, t, itemsize(type));
}

ort_status *ort_vector(const ort_node *n, size_t i, const char *input, int type, int64_t count, bool required,
                       const void **data) {
    ort_tensor t;
    ort_status *s = ort_constant(n, i, input, type, 1, &t);
    if (s) return s;
    if (!t.data && required) return ort_error(n->api, n->name, "%s must be given; got a node without it", input);
    if (t.data && t.dims[0] != count)
        return ort_error(n->api, n->name, "%s must be of shape (%lld,); got (%lld,)", input, (long long)count,
                         (long long)t.dims[0]);
    *data = t.data;
    return NULL;
}

int64_t ort_int(const ort_node *n, const char *name, int64_t missing) {
    int64_t value;
    ort_status *s = ORT(n->api, attribute_int)(n->info, name, &value);
    if (!s) return value;
    ORT(n->api, release_status)(s);
    return missing;
}

float ort_float(const ort_node *n, const char *name, float missing) {
    float value;
    ort_status *s = ORT(n->api, attribute_float)(n->info, name, &value);
    if (!s) return value;
    ORT(n->api, release_status)(s);
    return missing;
}

ort_status *ort_choice(const ort_node *n, const char *name, const char *const *choices, int count, int *index) {
    char text[32] = "";
    size_t size = 0; /* first the size alone: a longer text is no choice */
    *index = 0;
    ort_status *s = ORT(n->api, attribute_string)(n->info, name, NULL, &size);
    if (!s && size <= sizeof text) s = ORT(n->api, attribute_string)(n->info, name, text, &size);
    else if (!s) strcpy(text, "a longer text");
    if (s) {
        ORT(n->api, release_status)(s);
        return NULL;
    }
    for (int i = 0; i < count; i++)
        if (!strcmp(text, choices[i])) return *index = i, NULL;
    return ort_error(n->api, n->name, "%s must be \"%s\" or another of its values; got \"%s\"", name, choices[0], text);
}

ort_status *ort_read_activation(const ort_node *n, ort_activation *activation) {
    static const char *const names[] = {"", "relu", "gelu"};
    int index;
    ort_status *s = ort_choice(n, "activation", names, 3, &index);
    *activation = (ort_activation)index;
    return s;
}

ort_status *ort_ints(const ort_node *n, const char *name, int64_t *values, size_t count) {
    size_t size = 0;
    ort_status *s = ORT(n->api, attribute_ints)(n->info, name, NULL, &size);
    if (s) {
        ORT(n->api, release_status)(s);
        return NULL;
    }
    if (size != count) return ort_error(n->api, n->name, "%s must have %zu numbers; got %zu", name, count, size);
    return ORT(n->api, attribute_ints)(n->info, name, values, &size);
}

ort_status *ort_input(const ort_call *c, size_t i, ort_tensor *t) {
    const ort_value *value = NULL;
    ort_status *s = ORT(c->api, input)(c->context, i, &value);
    if (s) return s;
    if (!value) return ort_error(c->api, c->name, "input %zu must be given; got a node without it", i);
    return read_tensor(c->api, c->name, value, t);
}

ort_status *ort_output(const ort_call *c, size_t i, const int64_t *dims, size_t rank, void **data) {
    ort_value *value = NULL;
    ort_status *s = ORT(c->api, output)(c->context, i, dims, rank, &value);
    *data = NULL;
    return s || !value ? s : ORT(c->api, tensor_data)(value, data);
}
