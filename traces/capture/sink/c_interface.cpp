// The C interface: handles, statuses and texts around Sink. Nothing may leave it but a status.
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "traces/capture/evictsim_capture.h"
#include "traces/capture/sink/sink.h"

using evictsim::Error;
using evictsim::ErrorCode;
using evictsim::traces::capture::Pass;
using evictsim::traces::capture::Sink;
using evictsim::traces::capture::WrongOrder;

struct evictsim_capture {
  explicit evictsim_capture(std::unique_ptr<Sink> opened) : sink(std::move(opened)), process(::getpid()) {}
  std::unique_ptr<Sink> sink;
  pid_t process;
};

namespace {

constexpr std::uint32_t own_version =
    std::uint32_t{EVICTSIM_CAPTURE_ABI_MAJOR} << 16 | std::uint32_t{EVICTSIM_CAPTURE_ABI_MINOR};

/// The last error and the last loss of a thread.
std::string& thread_text(bool loss) {
  thread_local std::string error, last_loss;
  return loss ? last_loss : error;
}

std::int32_t refuse(std::int32_t status, const char* message) noexcept {
  try {
    thread_text(false) = message;
  } catch (const std::bad_alloc&) {
    thread_text(false).clear();
  }
  return status;
}

std::int32_t status_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::file_not_found:
      return EVICTSIM_CAPTURE_FILE_NOT_FOUND;
    case ErrorCode::permission_denied:
      return EVICTSIM_CAPTURE_PERMISSION_DENIED;
    case ErrorCode::unsupported:
    case ErrorCode::unsupported_version:
      return EVICTSIM_CAPTURE_UNSUPPORTED;
    case ErrorCode::invalid_value:
      return EVICTSIM_CAPTURE_INVALID_VALUE;
    case ErrorCode::out_of_memory:
      return EVICTSIM_CAPTURE_OUT_OF_MEMORY;
    case ErrorCode::device_failure:
      return EVICTSIM_CAPTURE_DEVICE_FAILURE;
    case ErrorCode::io_failure:
    case ErrorCode::not_a_trace:
    case ErrorCode::missing_data:
    case ErrorCode::checksum_mismatch:
      return EVICTSIM_CAPTURE_IO_FAILURE;
    default:
      return EVICTSIM_CAPTURE_INVALID_ARGUMENT;
  }
}

/// Runs `work`; what it throws becomes a status and the thread's text.
template <typename Work>
std::int32_t guarded(Work&& work) noexcept {
  try {
    work();
    return EVICTSIM_CAPTURE_OK;
  } catch (const WrongOrder& error) {
    return refuse(EVICTSIM_CAPTURE_WRONG_ORDER, error.what());
  } catch (const Error& error) {
    return refuse(status_of(error.code()), error.what());
  } catch (const std::bad_alloc&) {
    return refuse(EVICTSIM_CAPTURE_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return refuse(EVICTSIM_CAPTURE_INTERNAL, error.what());
  } catch (...) {
    return refuse(EVICTSIM_CAPTURE_INTERNAL, "an exception of an unknown kind");
  }
}

/// The open handles: a pointer that is none of them is refused instead of followed. Never destroyed, because an
/// engine's threads may outlive static objects.
struct Handles {
  std::mutex mutex;
  std::unordered_map<const evictsim_capture*, std::shared_ptr<evictsim_capture>> open;
};

Handles& handles() {
  static auto* const instance = new Handles;
  return *instance;
}

std::shared_ptr<evictsim_capture> find(const evictsim_capture* capture) {
  Handles& all = handles();
  const std::lock_guard lock(all.mutex);
  const auto place = all.open.find(capture);
  if (place == all.open.end()) {
    throw Error(ErrorCode::invalid_argument, capture == nullptr ? "the handle is null" : "the handle is not open");
  }
  if (place->second->process != ::getpid()) throw WrongOrder("a fork()ed child must not use its parent's handle");
  return place->second;
}

template <typename Work>
std::int32_t with_sink(evictsim_capture* capture, Work&& work) noexcept {
  return guarded([&] { work(*find(capture)->sink); });
}

Error null_argument(const char* name) {
  return {ErrorCode::invalid_argument, "must not be null", {.file = {}, .dataset = {}, .parameter = name, .value = {}}};
}

Error wrong_pass(std::int32_t pass, const char* rule) {
  return {ErrorCode::invalid_argument,
          rule,
          {.file = {}, .dataset = {}, .parameter = "pass", .value = std::to_string(pass)}};
}

}  // namespace

extern "C" {

std::uint32_t evictsim_capture_abi_version(void) { return own_version; }

const char* evictsim_capture_version(void) { return EVICTSIM_VERSION; }

const char* evictsim_capture_last_error(void) { return thread_text(false).c_str(); }

std::int32_t evictsim_capture_open(const char* directory, const char* options, std::uint32_t abi_version,
                                   evictsim_capture** capture) {
  if (capture == nullptr) return refuse(EVICTSIM_CAPTURE_INVALID_ARGUMENT, "capture: must not be null");
  *capture = nullptr;
  if (abi_version >> 16 != EVICTSIM_CAPTURE_ABI_MAJOR || abi_version > own_version) {
    return refuse(EVICTSIM_CAPTURE_VERSION_MISMATCH,
                  "the caller was built for another version of evictsim_capture.h than this library's " EVICTSIM_VERSION
                  "; build it with this library's header");
  }
  return guarded([&] {
    if (directory == nullptr) throw null_argument("directory");
    using evictsim::traces::capture::parse_capture_options;
    auto opened = std::make_shared<evictsim_capture>(std::make_unique<Sink>(directory, parse_capture_options(options)));
    Handles& all = handles();
    const std::lock_guard lock(all.mutex);
    *capture = opened.get();
    all.open.emplace(opened.get(), std::move(opened));
  });
}

std::int32_t evictsim_capture_model(evictsim_capture* capture, const char* attributes) {
  return with_sink(capture, [&](Sink& sink) {
    if (attributes == nullptr) throw null_argument("attributes");
    sink.set_model(attributes);
  });
}

std::int32_t evictsim_capture_setting(evictsim_capture* capture, const char* name, const char* value) {
  return with_sink(capture, [&](Sink& sink) {
    if (name == nullptr) throw null_argument("name");
    if (value == nullptr) throw null_argument("value");
    sink.add_setting(name, value);
  });
}

std::int32_t evictsim_capture_weight(evictsim_capture* capture, const DLTensor* tensor, std::int32_t weight,
                                     std::int32_t layer) {
  return with_sink(capture, [&](Sink& sink) { sink.add_weight(tensor, weight, layer); });
}

std::int32_t evictsim_capture_vocabulary(evictsim_capture* capture, const char* bytes, const std::int64_t* ends,
                                         size_t tokens) {
  return with_sink(capture, [&](Sink& sink) {
    if (bytes == nullptr) throw null_argument("bytes");
    if (ends == nullptr) throw null_argument("ends");
    std::vector<std::string> texts;
    std::int64_t first = 0;
    for (const std::int64_t end : std::span(ends, tokens)) {
      if (end < first) {
        throw Error(ErrorCode::invalid_argument, "must not decrease, from 0 on",
                    {.file = {}, .dataset = {}, .parameter = "ends", .value = std::to_string(end)});
      }
      texts.emplace_back(bytes + first, bytes + end);
      first = end;
    }
    sink.set_vocabulary(std::move(texts));
  });
}

std::int32_t evictsim_capture_describe_request(evictsim_capture* capture, const char* request_id,
                                               const char* attributes, const char* text) {
  return with_sink(capture, [&](Sink& sink) {
    if (request_id == nullptr) throw null_argument("request_id");
    sink.describe_request(request_id, attributes, text);
  });
}

std::int32_t evictsim_capture_describe_second_pass(evictsim_capture* capture, const char* request_id,
                                                   const std::int32_t* positions, const std::int32_t* chunks,
                                                   size_t rows) {
  return with_sink(capture, [&](Sink& sink) {
    if (request_id == nullptr) throw null_argument("request_id");
    if (positions == nullptr) throw null_argument("positions");
    if (chunks == nullptr) throw null_argument("chunks");
    evictsim::traces::SecondPass second_pass;
    second_pass.positions.assign(positions, positions + rows);
    for (size_t i = 0; i < rows; ++i) second_pass.chunk.push_back({chunks[2 * i], chunks[2 * i + 1]});
    sink.describe_second_pass(request_id, std::move(second_pass));
  });
}

std::int32_t evictsim_capture_describe_packets(evictsim_capture* capture, const char* request_id, std::int32_t pass,
                                               const evictsim_capture_packet* packets, size_t count) {
  return with_sink(capture, [&](Sink& sink) {
    if (request_id == nullptr) throw null_argument("request_id");
    if (packets == nullptr) throw null_argument("packets");
    if (pass != EVICTSIM_CAPTURE_WRAPPED_PACKETS && pass != EVICTSIM_CAPTURE_BARE_PACKETS) {
      throw wrong_pass(pass, "must be EVICTSIM_CAPTURE_WRAPPED_PACKETS or EVICTSIM_CAPTURE_BARE_PACKETS");
    }
    evictsim::traces::Packets documents;
    for (const evictsim_capture_packet& packet : std::span(packets, count)) {
      documents.push_back({{packet.first, packet.last}, packet.header, packet.trailer});
    }
    sink.describe_packets(request_id, set_of(static_cast<Pass>(pass)), std::move(documents));
  });
}

std::int32_t evictsim_capture_begin_step(evictsim_capture* capture, const evictsim_capture_rows* rows, size_t count) {
  return with_sink(capture, [&](Sink& sink) {
    if (rows == nullptr && count > 0) throw null_argument("rows");
    sink.begin_step({rows, count});
  });
}

std::int32_t evictsim_capture_begin_pass(evictsim_capture* capture, std::int32_t pass,
                                         const evictsim_capture_rows* rows, size_t count) {
  return with_sink(capture, [&](Sink& sink) {
    if (rows == nullptr && count > 0) throw null_argument("rows");
    if (pass < EVICTSIM_CAPTURE_SECOND_PASS || pass > EVICTSIM_CAPTURE_BEHIND_BARE) {
      throw wrong_pass(pass, "there is no such pass");
    }
    sink.begin_pass(static_cast<Pass>(pass), {rows, count});
  });
}

std::int32_t evictsim_capture_push(evictsim_capture* capture, const DLTensor* tensor, std::int32_t role,
                                   std::int32_t layer, void* stream) {
  return with_sink(capture, [&](Sink& sink) { sink.push(tensor, role, layer, stream); });
}

std::int32_t evictsim_capture_end_step(evictsim_capture* capture) {
  return with_sink(capture, [](Sink& sink) { sink.end_step(); });
}

std::int32_t evictsim_capture_begin_graph(evictsim_capture* capture, void* stream, std::uint64_t* graph) {
  return with_sink(capture, [&](Sink& sink) {
    if (graph == nullptr) throw null_argument("graph");
    *graph = sink.begin_graph(stream);
  });
}

std::int32_t evictsim_capture_end_graph(evictsim_capture* capture) {
  return with_sink(capture, [](Sink& sink) { sink.end_graph(); });
}

std::int32_t evictsim_capture_begin_replay(evictsim_capture* capture, std::uint64_t graph, void* stream) {
  return with_sink(capture, [&](Sink& sink) { sink.begin_replay(graph, stream); });
}

std::int32_t evictsim_capture_end_replay(evictsim_capture* capture) {
  return with_sink(capture, [](Sink& sink) { sink.end_replay(); });
}

std::int32_t evictsim_capture_finish_request(evictsim_capture* capture, const char* request_id) {
  return with_sink(capture, [&](Sink& sink) {
    if (request_id == nullptr) throw null_argument("request_id");
    sink.finish_request(request_id);
  });
}

std::int32_t evictsim_capture_discard_request(evictsim_capture* capture, const char* request_id) {
  return with_sink(capture, [&](Sink& sink) {
    if (request_id == nullptr) throw null_argument("request_id");
    sink.discard_request(request_id);
  });
}

std::int32_t evictsim_capture_flush(evictsim_capture* capture) {
  return with_sink(capture, [](Sink& sink) { sink.flush(); });
}

std::int32_t evictsim_capture_get_counters(evictsim_capture* capture, evictsim_capture_counters* counters) {
  return with_sink(capture, [&](Sink& sink) {
    if (counters == nullptr) throw null_argument("counters");
    const std::uint32_t size = counters->struct_size;
    if (size < 2 * sizeof(std::uint32_t)) {
      throw Error(ErrorCode::invalid_argument, "must be sizeof(evictsim_capture_counters)",
                  {.file = {}, .dataset = {}, .parameter = "struct_size", .value = std::to_string(size)});
    }
    evictsim_capture_counters current = sink.counters();
    current.struct_size = size;
    std::memcpy(counters, &current, std::min<std::size_t>(size, sizeof current));
  });
}

const char* evictsim_capture_last_loss(evictsim_capture* capture) {
  const std::int32_t status = with_sink(capture, [](Sink& sink) { thread_text(true) = sink.last_loss(); });
  return status == EVICTSIM_CAPTURE_OK ? thread_text(true).c_str() : nullptr;
}

std::int32_t evictsim_capture_close(evictsim_capture* capture) {
  return guarded([&] {
    const std::shared_ptr<evictsim_capture> closing = find(capture);
    {
      Handles& all = handles();
      const std::lock_guard lock(all.mutex);
      all.open.erase(capture);
    }
    closing->sink->close();
  });
}

}  // extern "C"
