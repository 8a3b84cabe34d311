/* What we use of the C ABI of ONNX Runtime, stated from facts: tables of functions to which every release appends, and
 * the struct of a custom operator. No header of the runtime is included. */
#ifndef QN_ORT_ABI_H
#define QN_ORT_ABI_H

#include <stddef.h>
#include <stdint.h>

typedef void ort_status; /* NULL: done */
typedef void ort_value;
typedef void ort_shape;   /* type and shape of a tensor */
typedef void ort_info;    /* a node, while its kernel is made */
typedef void ort_context; /* one call of a kernel */

typedef struct {
    void (*entry[1])(void); /* some hundreds */
} ort_api;

typedef struct {
    const ort_api *(*api)(uint32_t version); /* NULL: the runtime is older */
    const char *(*version)(void);
} ort_base;

enum {
    ORT_OLDEST = 17, /* release 1.17: the first with parallel_for */
    ORT_NEWEST = 18, /* of the struct ort_op below */
};

/* Number of the entry, result, arguments. */
#define ORT_ENTRIES(X)                                                                                                 \
    X(create_status, 0, ort_status *, (int code, const char *message))                                                 \
    X(create_domain, 26, ort_status *, (const char *name, void **domain))                                              \
    X(domain_add, 27, ort_status *, (void *domain, const void *op))                                                    \
    X(add_domain, 28, ort_status *, (void *session_options, void *domain))                                             \
    X(tensor_data, 51, ort_status *, (ort_value * value, void **data))                                                 \
    X(element_type, 60, ort_status *, (const ort_shape *shape, int *type))                                             \
    X(dim_count, 61, ort_status *, (const ort_shape *shape, size_t *count))                                            \
    X(dims, 62, ort_status *, (const ort_shape *shape, int64_t *dims, size_t count))                                   \
    X(tensor_shape, 65, ort_status *, (const ort_value *value, ort_shape **shape))                                     \
    X(attribute_float, 85, ort_status *, (const ort_info *info, const char *name, float *value))                       \
    X(attribute_int, 86, ort_status *, (const ort_info *info, const char *name, int64_t *value))                       \
    X(attribute_string, 87, ort_status *, (const ort_info *info, const char *name, char *value, size_t *size))         \
    X(input_count, 88, ort_status *, (const ort_context *context, size_t *count))                                      \
    X(output_count, 89, ort_status *, (const ort_context *context, size_t *count))                                     \
    X(input, 90, ort_status *, (const ort_context *context, size_t i, const ort_value **value))                        \
    X(output, 91, ort_status *,                                                                                        \
      (ort_context * context, size_t i, const int64_t *dims, size_t count, ort_value **value))                         \
    X(release_status, 93, void, (ort_status * status))                                                                 \
    X(release_shape, 99, void, (ort_shape * shape))                                                                    \
    X(add_config, 130, ort_status *, (void *session_options, const char *key, const char *value))                      \
    X(attribute_ints, 163, ort_status *, (const ort_info *info, const char *name, int64_t *values, size_t *size))      \
    X(info_input_count, 230, ort_status *, (const ort_info *info, size_t *count))                                      \
    X(info_output_count, 231, ort_status *, (const ort_info *info, size_t *count))                                     \
    X(input_name, 232, ort_status *, (const ort_info *info, size_t i, char *name, size_t *size))                       \
    X(has_config, 237, ort_status *, (const void *session_options, const char *key, int *has))                         \
    X(get_config, 238, ort_status *, (const void *session_options, const char *key, char *value, size_t *size))        \
    X(constant_input, 249, ort_status *, (const ort_info *info, size_t i, int *is_constant, const ort_value **value))  \
    X(parallel_for, 274, ort_status *,                                                                                 \
      (const ort_context *context, void (*take)(void *data, size_t i), size_t total, size_t batches, void *data))

#define ORT_FUNCTION(name, number, result, arguments) typedef result(*ort_##name##_function) arguments;
ORT_ENTRIES(ORT_FUNCTION)
#undef ORT_FUNCTION
enum {
#define ORT_NUMBER(name, number, result, arguments) ORT_NUMBER_##name = number,
    ORT_ENTRIES(ORT_NUMBER)
#undef ORT_NUMBER
};
#define ORT(api, name) ((ort_##name##_function)(api)->entry[ORT_NUMBER_##name])

enum { ORT_ANY = 0, ORT_FLOAT = 1, ORT_UINT8 = 2, ORT_INT8 = 3, ORT_INT32 = 6, ORT_INT64 = 7 }; /* TensorProto's */
enum { ORT_REQUIRED, ORT_OPTIONAL, ORT_VARIADIC };
enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };

/* An operator: the runtime reads the members up to those of release 1.`version`. */
typedef struct ort_op ort_op;
struct ort_op {
    uint32_t version;
    void *(*create)(const ort_op *op, const ort_api *api, const ort_info *info); /* not called from 16 on */
    const char *(*name)(const ort_op *op);
    const char *(*provider)(const ort_op *op);
    int (*input_type)(const ort_op *op, size_t i);
    size_t (*inputs)(const ort_op *op);
    int (*output_type)(const ort_op *op, size_t i);
    size_t (*outputs)(const ort_op *op);
    void (*compute)(void *kernel, ort_context *context); /* not called from 16 on */
    void (*destroy)(void *kernel);
    int (*input_kind)(const ort_op *op, size_t i);
    int (*output_kind)(const ort_op *op, size_t i);
    int (*input_memory)(const ort_op *op, size_t i); /* 0: that of the provider */
    int (*variadic_inputs_least)(const ort_op *op);
    int (*variadic_inputs_same)(const ort_op *op);
    int (*variadic_outputs_least)(const ort_op *op);
    int (*variadic_outputs_same)(const ort_op *op);
    ort_status *(*create_kernel)(const ort_op *op, const ort_api *api, const ort_info *info, void **kernel); /* 16 */
    ort_status *(*compute_kernel)(void *kernel, ort_context *context);
    ort_status *(*infer_shapes)(const ort_op *op, void *context); /* 17; NULL: not */
    int (*first_opset)(const ort_op *op);
    int (*last_opset)(const ort_op *op);
    void *may_inplace, *release_may_inplace, *alias, *release_alias; /* 18; NULL: not */
};

#endif
