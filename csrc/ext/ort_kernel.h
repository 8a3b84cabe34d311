/* What the operators for ONNX Runtime share: constants, attributes, tensors, errors, and the runtime's thread pool. */
#ifndef QN_ORT_KERNEL_H
#define QN_ORT_KERNEL_H

#include <stdbool.h>
#include <stdint.h>

#include "ort_abi.h"

enum { ORT_MOST_DIMS = 16 };

typedef enum { ORT_LINEAR, ORT_RELU, ORT_GELU } ort_activation;

/* Memory that is freed with the kernel. */
typedef struct ort_copy ort_copy;
struct ort_copy {
    ort_copy *next;
};

/* A node, while its kernel is made. */
typedef struct {
    const ort_api *api;
    const ort_info *info;
    const char *name;  /* of the operator */
    ort_copy **copies; /* of constants */
} ort_node;

typedef struct {
    const ort_api *api;
    ort_context *context;
    const char *name;
} ort_call;

typedef struct {
    int type;
    size_t rank;
    int64_t dims[ORT_MOST_DIMS];
    void *data;
} ort_tensor;

/* An error: "qnumpy.<name>: <text>.", the text as printf makes it. Never NULL. */
__attribute__((format(printf, 3, 4))) ort_status *ort_error(const ort_api *api, const char *name, const char *format,
                                                            ...);
ort_status *ort_no_memory(const ort_api *api, const char *name);

/* The constant input i; data is NULL if it is left out. `type` is checked, and the rank. The runtime may hold it in a
 * mapped file, at any address: then it is copied. */
ort_status *ort_constant(const ort_node *n, size_t i, const char *input, int type, size_t rank, ort_tensor *t);
/* The same of a required vector of `count` elements, or of an optional one. */
ort_status *ort_vector(const ort_node *n, size_t i, const char *input, int type, int64_t count, bool required,
                       const void **data);
/* Copies a constant that does not lie at a multiple of `alignment`, 64 at most. */
ort_status *ort_align(const ort_node *n, ort_tensor *t, size_t alignment);
void ort_free_copies(ort_copy *copies);
int64_t ort_int(const ort_node *n, const char *name, int64_t missing);
float ort_float(const ort_node *n, const char *name, float missing);
/* The index of the attribute's text among `count` choices; the first where it is missing. */
ort_status *ort_choice(const ort_node *n, const char *name, const char *const *choices, int count, int *index);
ort_status *ort_read_activation(const ort_node *n, ort_activation *activation);
/* Exactly `count` numbers; a missing attribute leaves them. */
ort_status *ort_ints(const ort_node *n, const char *name, int64_t *values, size_t count);

ort_status *ort_input(const ort_call *c, size_t i, ort_tensor *t);
ort_status *ort_output(const ort_call *c, size_t i, const int64_t *dims, size_t rank, void **data);

static inline int64_t ort_elements(const int64_t *dims, size_t rank) {
    int64_t n = 1;
    for (size_t i = 0; i < rank; i++) n *= dims[i]; /* the tensor is in memory, or the runtime refuses it */
    return n;
}

/* An operator of the domain. The kernel begins with whatever `create` makes. */
typedef struct {
    const char *name;
    size_t inputs, required;
    int input_types[8];
    size_t outputs, required_outputs;
    bool variadic;
    ort_status *(*create)(const ort_node *node, void **kernel);
    ort_status *(*compute)(void *kernel, const ort_call *call);
    void (*destroy)(void *kernel);
} ort_operator;

extern const ort_operator qn_ort_linear, qn_ort_conv, qn_ort_embedding, qn_ort_norm;

#endif
