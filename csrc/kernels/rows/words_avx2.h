/* 16 words, one for each column of a panel: one vector of AVX2, which AVX-512 uses too. */

typedef __m256i vw;

V_INLINE vw vw_load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
V_INLINE vw vw_shl(vw v, int bits) { return _mm256_slli_epi16(v, bits); }
V_INLINE vw vw_sra(vw v, int bits) { return _mm256_srai_epi16(v, bits); }
V_INLINE vw vw_and(vw v, int mask) { return _mm256_and_si256(v, _mm256_set1_epi16((int16_t)mask)); }
V_INLINE vw vw_or(vw a, vw b) { return _mm256_or_si256(a, b); }
