#pragma once
/** \file
 * evictsim's capture sink: a C library that records queries, keys and values of a running engine into trace shards
 * (docs/capture.md, "From your own engine"; docs/trace-format.md).
 *
 *   evictsim_capture_open            where, and what is sampled
 *   evictsim_capture_model           geometry of the model; evictsim_capture_weight for W_O and norms, once each
 *   evictsim_capture_begin_step      which rows of the step's tensors belong to which request
 *     evictsim_capture_push          one tensor of one layer, as often as needed
 *   evictsim_capture_end_step
 *   evictsim_capture_begin_pass      the same for rows beside the sequence: a second pass, documents read alone
 *   evictsim_capture_finish_request  the request's rows become a sequence of a shard
 *   evictsim_capture_close           seals the last shards
 *
 * Every function but the texts returns a status; after one that is not EVICTSIM_CAPTURE_OK,
 * evictsim_capture_last_error() says in one line what was wrong and what would be right. No exception crosses this
 * interface, and no misuse of it that can be seen (null, wrong order, shape, type, version) does worse than a status.
 *
 * Threads: any thread may call any function at any time, on the same handle too; such calls wait for each other.
 * The exception is evictsim_capture_close, after which the handle is gone. A step's calls form one bracket, so one
 * thread at a time should drive the steps of a handle. A fork()ed child must not use a handle of its parent.
 */

#include <stddef.h>
#include <stdint.h>

#include "traces/capture/dlpack/dlpack.h"

#if defined(__GNUC__)
#define EVICTSIM_CAPTURE_API __attribute__((visibility("default")))
#else
#define EVICTSIM_CAPTURE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** Version of this interface. A larger second number adds functions, options, roles or fields behind those that
 * there were; a larger first number breaks callers. */
#define EVICTSIM_CAPTURE_ABI_MAJOR 1
#define EVICTSIM_CAPTURE_ABI_MINOR 2

/** One capture into one directory. */
typedef struct evictsim_capture evictsim_capture;

/** What a call returns; the numbers never change meaning. */
enum {
  EVICTSIM_CAPTURE_OK = 0,
  EVICTSIM_CAPTURE_INVALID_ARGUMENT = 1, /**< null, unknown option, bad value, a shape that does not fit the model */
  EVICTSIM_CAPTURE_WRONG_ORDER = 2,      /**< not now: no model yet, no step open, a step open already */
  EVICTSIM_CAPTURE_UNSUPPORTED = 3,      /**< a device or element type that this build cannot read */
  EVICTSIM_CAPTURE_VERSION_MISMATCH = 4, /**< the caller was built for another version of this interface */
  EVICTSIM_CAPTURE_INVALID_VALUE = 5,    /**< NaN, infinity or beyond float16 in some rows; all others were taken */
  EVICTSIM_CAPTURE_FILE_NOT_FOUND = 6,   /**< the directory does not exist, or does no longer */
  EVICTSIM_CAPTURE_PERMISSION_DENIED = 7,
  EVICTSIM_CAPTURE_IO_FAILURE = 8, /**< disk full and the like; sealed shards are whole, the capture is over */
  EVICTSIM_CAPTURE_OUT_OF_MEMORY = 9,
  EVICTSIM_CAPTURE_INTERNAL = 10,      /**< a mistake of this library */
  EVICTSIM_CAPTURE_DEVICE_FAILURE = 11 /**< a CUDA device or its runtime failed; what had arrived is kept */
};

/** What a pushed tensor holds. Rows are the step's rows over all requests, flattened over all axes before the ones
 * named here: [rows, heads, width] and [batch, rows, heads, width] are both fine, with any strides. */
enum {
  EVICTSIM_CAPTURE_Q = 0, /**< [.., Hq, d] after RoPE and any query norm */
  EVICTSIM_CAPTURE_K = 1, /**< [.., Hkv, d] after RoPE and any key norm; heads not repeated; new rows only */
  EVICTSIM_CAPTURE_V = 2, /**< [.., Hkv, d] */
  EVICTSIM_CAPTURE_X = 3, /**< [.., D] the residual stream entering the layer, before its norm; layer
                               `num_layers` is the stream that leaves the last layer */
  EVICTSIM_CAPTURE_AFTER_ATTENTION = 4, /**< [.., D] X plus the attention block's output; gives cos_attention */
  EVICTSIM_CAPTURE_LOGITS = 5,          /**< [.., vocab] of the token after each row, layer 0; gives entropies */
  /* Per-token channels that the engine computed itself, float32 [..], layer 0 unless said otherwise. */
  EVICTSIM_CAPTURE_ENTROPY = 6,        /**< nats */
  EVICTSIM_CAPTURE_ENTROPY_TOP = 7,    /**< [.., 3] over the 128, 256, 512 most probable tokens */
  EVICTSIM_CAPTURE_LOGPROB = 8,        /**< of the row's own token given those before it; row 0 is not looked at */
  EVICTSIM_CAPTURE_STEP_NORM = 9,      /**< per layer */
  EVICTSIM_CAPTURE_COS_FINAL = 10,     /**< per layer */
  EVICTSIM_CAPTURE_COS_ATTENTION = 11, /**< per layer */
  EVICTSIM_CAPTURE_RESIDUAL_NORM = 12, /**< per layer */
  EVICTSIM_CAPTURE_FINAL_NORM_INPUT = 13
};

/** Weights of the model, recorded once. */
enum {
  EVICTSIM_CAPTURE_W_O = 0,         /**< [D, Hq * d] of a layer, as torch stores o_proj.weight */
  EVICTSIM_CAPTURE_INPUT_NORM = 1,  /**< [D] of a layer */
  EVICTSIM_CAPTURE_OUTPUT_NORM = 2, /**< [D] of a layer: a norm between W_O and the residual stream */
  EVICTSIM_CAPTURE_UNEMBEDDING = 3, /**< [vocab, D] */
  EVICTSIM_CAPTURE_FINAL_NORM = 4   /**< [D] */
};

/** Consecutive rows of a step that belong to one request. Rows that no entry names (padding) are left out. */
typedef struct evictsim_capture_rows {
  const char* request_id;   /**< the engine's name of the request; unique among the unfinished ones */
  int64_t first_row;        /**< place of the first row in the step's tensors */
  int64_t count;            /**< rows; the tokens stand at positions first_position, first_position + 1, ... */
  int32_t first_position;   /**< 0 in a request's first step, then no gaps. Positions seen before with the same tokens
                                 (a preempted request that starts over) are passed over. What breaks this (a cached
                                 prefix, other tokens at the same positions) cuts the request there. */
  int32_t prompt_length;    /**< tokens of the whole prompt, the same in every step; 0: the rows of the first step */
  const int32_t* token_ids; /**< [count] */
} evictsim_capture_rows;

/** Forward passes beside a request's own sequence (docs/trace-format.md), since version 1.1. */
enum {
  EVICTSIM_CAPTURE_SECOND_PASS = 1, /**< the context read again: q, and k where it is pushed */
  EVICTSIM_CAPTURE_WRAPPED_PACKETS =
      2, /**< documents read alone between boundary rows: k, v, and q where it is pushed */
  EVICTSIM_CAPTURE_BEHIND_WRAPPED = 3, /**< what stands behind the last document, read behind these: k, v and q */
  EVICTSIM_CAPTURE_BARE_PACKETS = 4,   /**< documents read alone, as they are */
  EVICTSIM_CAPTURE_BEHIND_BARE = 5
};

/** A document that is read alone, from position 0 on. */
typedef struct evictsim_capture_packet {
  int32_t first, last;     /**< its token rows [first, last) in the prompt */
  int32_t header, trailer; /**< boundary rows before and behind it */
} evictsim_capture_packet;

/** What a capture has done so far. */
typedef struct evictsim_capture_counters {
  uint32_t struct_size; /**< set by the caller: sizeof(evictsim_capture_counters) */
  uint32_t reserved;
  uint64_t rows;             /**< token rows of recorded requests that were taken in */
  uint64_t dropped_rows;     /**< of these, rows that will be in no shard: the queue was full, or a bad value */
  uint64_t requests;         /**< requests finished into a shard */
  uint64_t dropped_requests; /**< requests given up because of what was lost of them */
  uint64_t skipped_requests; /**< requests not recorded: sampling, memory or bytes per second */
  uint64_t pushed_bytes;     /**< bytes taken from tensors, after sampling */
  uint64_t written_bytes;    /**< bytes of compressed chunks written */
  uint64_t shards;           /**< shards sealed and in the manifest */
  uint64_t waits;            /**< calls that waited for a full queue */
  double wait_seconds;       /**< how long, in all */
  double call_seconds;       /**< spent inside push, begin_step and end_step: what the capture cost the engine */
  uint64_t dropped_passes;   /**< passes beside recorded sequences that are in no shard, since version 1.1 */
} evictsim_capture_counters;

/** (major << 16) | minor of the library that was loaded. */
EVICTSIM_CAPTURE_API uint32_t evictsim_capture_abi_version(void);
/** The library's version as text. */
EVICTSIM_CAPTURE_API const char* evictsim_capture_version(void);
/** Why the last failed call of this thread failed; "" when none did. Valid until the thread's next call. */
EVICTSIM_CAPTURE_API const char* evictsim_capture_last_error(void);

/** Opens a capture into `directory`, which is created when missing (its parent is not). A directory with a manifest is
 * gone on with: what a killed capture left unsealed is removed, its sealed shards stay.
 *
 * `options`: "name=value" lines, see docs/capture.md; null or "" for the defaults. `abi_version`: the caller's
 * (EVICTSIM_CAPTURE_ABI_MAJOR << 16) | EVICTSIM_CAPTURE_ABI_MINOR. `*capture` is null after a failure. */
EVICTSIM_CAPTURE_API int32_t evictsim_capture_open(const char* directory, const char* options, uint32_t abi_version,
                                                   evictsim_capture** capture);

/** The model record: "name=value" lines with the root attributes of docs/trace-format.md (model, engine,
 * engine_version, num_layers, num_query_heads, num_kv_heads, head_dim, hidden_size, vocab_size, attention_scale,
 * logit_softcap, rope_theta, rope_attention_scaling, rope_layout, rotary_dim, norm_epsilon, norm_kind), and
 * inv_freq, sliding_window and sensitivity (one value per model layer) as comma-separated lists; sensitivity_... says
 * how the latter was measured, as attributes of that dataset. Once, before the first step. */
EVICTSIM_CAPTURE_API int32_t evictsim_capture_model(evictsim_capture* capture, const char* attributes);

/** A setting of the engine or the capture, kept as root attribute `name` (capture_...) of every shard, whatever
 * characters `value` has. Between the model record and the first step; since version 1.1. */
EVICTSIM_CAPTURE_API int32_t evictsim_capture_setting(evictsim_capture* capture, const char* name, const char* value);

/** One weight, in host memory, float16, bfloat16 or float32. `layer` is looked at for weights of a layer; layers that
 * are not captured are passed over. Between the model record and the first step. */
EVICTSIM_CAPTURE_API int32_t evictsim_capture_weight(evictsim_capture* capture, const DLTensor* tensor, int32_t weight,
                                                     int32_t layer);

/** The texts of the tokens 0 to `tokens` - 1, one behind the other: token t is the bytes from ends[t - 1] (0 for the
 * first) up to ends[t]; those behind, up to vocab_size, have none. Under the option store_text=1 every token of a
 * sequence is then stored with its text; without that option nothing is kept of them. Between the model record and the
 * first step; since version 1.2. */
EVICTSIM_CAPTURE_API int32_t evictsim_capture_vocabulary(evictsim_capture* capture, const char* bytes,
                                                         const int64_t* ends, size_t tokens);

/** More about a request, before its first step: "task=...", "span=evidence=tokens:12:20" (repeatable) lines, and
 * `text`, which is stored only under the option store_text=1. Both may be null. */
EVICTSIM_CAPTURE_API int32_t evictsim_capture_describe_request(evictsim_capture* capture, const char* request_id,
                                                               const char* attributes, const char* text);

/** Announces a second pass over the context of a request, before its first step: `rows` rows at `positions`, each of
 * which may see the token rows [chunks[2 i], chunks[2 i + 1]) besides its own pass. Since version 1.1. */
EVICTSIM_CAPTURE_API int32_t evictsim_capture_describe_second_pass(evictsim_capture* capture, const char* request_id,
                                                                   const int32_t* positions, const int32_t* chunks,
                                                                   size_t rows);

/** Announces documents of a request that are read alone, before its first step: `pass` is
 * EVICTSIM_CAPTURE_WRAPPED_PACKETS or EVICTSIM_CAPTURE_BARE_PACKETS, the packets stand in the order of their documents.
 * Since version 1.1. */
EVICTSIM_CAPTURE_API int32_t evictsim_capture_describe_packets(evictsim_capture* capture, const char* request_id,
                                                               int32_t pass, const evictsim_capture_packet* packets,
                                                               size_t count);

/** Begins a forward step over `count` ranges of rows; ranges do not overlap. */
EVICTSIM_CAPTURE_API int32_t evictsim_capture_begin_step(evictsim_capture* capture, const evictsim_capture_rows* rows,
                                                         size_t count);

/** Takes one tensor of the step: float32, float16 or bfloat16, and the 8-bit floats e4m3fn and e5m2. Its rows are
 * copied before this returns (host memory), or in order behind what `stream` has been given so far (device memory:
 * the memory may be used again in `stream`'s order). `stream` is the producer's CUDA stream, null for host memory.
 * `layer` is the layer's index in the model; layers that are not captured cost nothing. */
EVICTSIM_CAPTURE_API int32_t evictsim_capture_push(evictsim_capture* capture, const DLTensor* tensor, int32_t role,
                                                   int32_t layer, void* stream);

/** In place of begin_step: the step's rows belong to a pass beside the sequences of their requests. Each of these has
 * had its first step and not ended, and announced that pass; `first_position` counts the pass's own rows from 0 on,
 * without gaps, over all packets; token_ids and prompt_length are not looked at. push takes q, k and v, with every
 * query, and passes over the rest. A pass that misses rows when its request ends is left out of the trace and counted
 * (dropped_passes); rows behind the last document end with the sequence. Since version 1.1. */
EVICTSIM_CAPTURE_API int32_t evictsim_capture_begin_pass(evictsim_capture* capture, int32_t pass,
                                                         const evictsim_capture_rows* rows, size_t count);

/** Ends the step. K and V of every captured layer must have been pushed. */
EVICTSIM_CAPTURE_API int32_t evictsim_capture_end_step(evictsim_capture* capture);

/** CUDA graphs (build with CUDA, options when_full=drop and graph_ring): `stream` is being captured into a graph. Until
 * end_graph, which comes before the capture of the stream ends, push puts a copy of the tensor into the graph and
 * copies nothing. `*graph` is the number that begin_replay takes. Not inside a step. step_norm, cos_final and
 * cos_attention are not computed of such tensors; one that serves nothing else is refused as unsupported. */
EVICTSIM_CAPTURE_API int32_t evictsim_capture_begin_graph(evictsim_capture* capture, void* stream, uint64_t* graph);
EVICTSIM_CAPTURE_API int32_t evictsim_capture_end_graph(evictsim_capture* capture);

/** Inside a step, around the one launch of that graph on `stream`: stands for the pushes of its tensors, whose rows are
 * those that begin_step named. A graph that is launched otherwise leaves no rows. */
EVICTSIM_CAPTURE_API int32_t evictsim_capture_begin_replay(evictsim_capture* capture, uint64_t graph, void* stream);
EVICTSIM_CAPTURE_API int32_t evictsim_capture_end_replay(evictsim_capture* capture);

/** No more rows of that request will come. A request that is not recorded is no error. */
EVICTSIM_CAPTURE_API int32_t evictsim_capture_finish_request(evictsim_capture* capture, const char* request_id);

/** Gives a request up: nothing of it is kept, and nothing of it counts as lost. Since version 1.1. */
EVICTSIM_CAPTURE_API int32_t evictsim_capture_discard_request(evictsim_capture* capture, const char* request_id);

/** Seals what is finished now, so that readers see it; requests that go on keep their shard open. */
EVICTSIM_CAPTURE_API int32_t evictsim_capture_flush(evictsim_capture* capture);

/** Why rows were last lost, naming the request; "" when none were, null for a null handle. Valid until the next call of
 * this thread. */
EVICTSIM_CAPTURE_API const char* evictsim_capture_last_loss(evictsim_capture* capture);

/** Fills `counters`, as many bytes as its struct_size says. */
EVICTSIM_CAPTURE_API int32_t evictsim_capture_get_counters(evictsim_capture* capture,
                                                           evictsim_capture_counters* counters);

/** Finishes every request, seals every shard and frees the handle, whatever it returns. */
EVICTSIM_CAPTURE_API int32_t evictsim_capture_close(evictsim_capture* capture);

#ifdef __cplusplus
}
#endif
