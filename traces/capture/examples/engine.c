/* The smallest engine that records itself: a prompt of 24 tokens, 8 decode steps, made-up numbers.
 * cc engine.c -I include/evictsim -L lib -levictsim_capture -o engine && ./engine out/ && evictsim trace verify out/ */
#include <stdio.h>
#include <stdlib.h>

#include "traces/capture/evictsim_capture.h"

enum { LAYERS = 2, QUERY_HEADS = 4, KV_HEADS = 2, WIDTH = 8, HIDDEN = 32, VOCABULARY = 100, PROMPT = 24, DECODE = 8 };

static void check(int32_t status) {
  if (status == EVICTSIM_CAPTURE_OK) return;
  fprintf(stderr, "engine: %s\n", evictsim_capture_last_error());
  exit(1);
}

/* Stands for the engine's own buffers, [rows, heads, WIDTH] float32. */
static void push(evictsim_capture* capture, int32_t role, int32_t layer, int64_t rows, int64_t heads) {
  static float buffer[PROMPT * QUERY_HEADS * WIDTH];
  int64_t shape[3] = {0, 0, WIDTH};
  DLTensor tensor = {0};
  int64_t i;
  for (i = 0; i < rows * heads * WIDTH; ++i) buffer[i] = (float)((i * 37 + layer * 11 + role * 5) % 127 - 63) / 32;
  shape[0] = rows;
  shape[1] = heads;
  tensor.data = buffer;
  tensor.device.device_type = kDLCPU;
  tensor.ndim = 3;
  tensor.dtype.code = kDLFloat;
  tensor.dtype.bits = 32;
  tensor.dtype.lanes = 1;
  tensor.shape = shape; /* strides stay null: rows lie behind each other */
  check(evictsim_capture_push(capture, &tensor, role, layer, NULL));
}

int main(int argc, char** argv) {
  evictsim_capture* capture = NULL;
  int32_t tokens[PROMPT], position = 0, layer, i;
  if (argc != 2) return fprintf(stderr, "usage: engine DIRECTORY\n"), 2;
  check(evictsim_capture_open(argv[1], "q_rows=window:16+decode\nqueue=64MiB",
                              EVICTSIM_CAPTURE_ABI_MAJOR << 16 | EVICTSIM_CAPTURE_ABI_MINOR, &capture));
  check(evictsim_capture_model(capture,
                               "model=toy\nengine=engine.c\nnum_layers=2\nnum_query_heads=4\nnum_kv_heads=2\n"
                               "head_dim=8\nhidden_size=32\nvocab_size=100\nrope_layout=half\nrope_theta=10000"));
  while (position < PROMPT + DECODE) {
    evictsim_capture_rows rows = {"request 1", 0, 1, 0, PROMPT, NULL};
    rows.count = position == 0 ? PROMPT : 1; /* the prompt at once, then token by token */
    rows.first_position = position;
    rows.token_ids = tokens;
    for (i = 0; i < rows.count; ++i) tokens[i] = (position + i) % VOCABULARY;
    check(evictsim_capture_begin_step(capture, &rows, 1));
    for (layer = 0; layer < LAYERS; ++layer) {
      push(capture, EVICTSIM_CAPTURE_Q, layer, rows.count, QUERY_HEADS);
      push(capture, EVICTSIM_CAPTURE_K, layer, rows.count, KV_HEADS);
      push(capture, EVICTSIM_CAPTURE_V, layer, rows.count, KV_HEADS);
    }
    check(evictsim_capture_end_step(capture));
    position += (int32_t)rows.count;
  }
  check(evictsim_capture_finish_request(capture, "request 1"));
  check(evictsim_capture_close(capture));
  return 0;
}
