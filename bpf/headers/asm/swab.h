/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* No swaps by assembly: the compiler has them built in. */
#include <asm-generic/bitsperlong.h>
