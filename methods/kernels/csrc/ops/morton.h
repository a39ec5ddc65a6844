// Z-order of cells: bit b of x, y, z becomes bit 3b, 3b + 1, 3b + 2; ten bits per axis.
#pragma once
#include "common.h"

namespace fieldbook {

FB_HD uint32_t spread_bits(uint32_t v) {
  v = (v * 0x00010001u) & 0xFF0000FFu;
  v = (v * 0x00000101u) & 0x0F00F00Fu;
  v = (v * 0x00000011u) & 0xC30C30C3u;
  v = (v * 0x00000005u) & 0x49249249u;
  return v;
}

FB_HD uint32_t gather_bits(uint32_t v) {
  v &= 0x49249249u;
  v = (v | v >> 2) & 0xC30C30C3u;
  v = (v | v >> 4) & 0x0F00F00Fu;
  v = (v | v >> 8) & 0xFF0000FFu;
  v = (v | v >> 16) & 0x0000FFFFu;
  return v;
}

FB_HD uint32_t morton_encode(uint32_t x, uint32_t y, uint32_t z) {
  return spread_bits(x) | spread_bits(y) << 1 | spread_bits(z) << 2;
}

}  // namespace fieldbook
