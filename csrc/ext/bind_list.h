/* The list of bind_<stem>.c files: one line here and one qn_<stem>_methods[] there make functions of `_core`. */
#ifndef QN_BIND_LIST_H
#define QN_BIND_LIST_H

#define QN_BIND_LIST(QN_BIND)                                                                                          \
    QN_BIND(accumulate)                                                                                                \
    QN_BIND(blocks)                                                                                                    \
    QN_BIND(cast)                                                                                                      \
    QN_BIND(codebook)                                                                                                  \
    QN_BIND(conv)                                                                                                      \
    QN_BIND(float_error)                                                                                               \
    QN_BIND(gptq)                                                                                                      \
    QN_BIND(gradients)                                                                                                 \
    QN_BIND(grid_search)                                                                                               \
    QN_BIND(hadamard)                                                                                                  \
    QN_BIND(histogram)                                                                                                 \
    QN_BIND(layers)                                                                                                    \
    QN_BIND(matmul)                                                                                                    \
    QN_BIND(metrics)                                                                                                   \
    QN_BIND(nearest)                                                                                                   \
    QN_BIND(pack)                                                                                                      \
    QN_BIND(packed_columns)                                                                                            \
    QN_BIND(packed_float)                                                                                              \
    QN_BIND(packed_groups)                                                                                             \
    QN_BIND(quantize)                                                                                                  \
    QN_BIND(reduce)                                                                                                    \
    QN_BIND(runtime)                                                                                                   \
    QN_BIND(saturation)

#endif
