#include "traces/capture/cuda/graph_recorder.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

std::uint64_t aligned(std::uint64_t bytes) {
  return (bytes + graph_record_alignment - 1) / graph_record_alignment * graph_record_alignment;
}

Error refused(const std::string& why, const std::string& parameter, const std::string& value) {
  return {ErrorCode::unsupported, why, {.parameter = parameter, .value = value}};
}

}  // namespace

GraphRecorder::GraphRecorder(CudaRuntime& runtime, std::size_t ring_bytes, std::size_t sites)
    : runtime_(runtime),
      ring_bytes_(ring_bytes / graph_record_alignment * graph_record_alignment),
      most_sites_(sites),
      stream_(CudaResource::stream(runtime)),
      ring_(CudaResource::device_memory(runtime, ring_bytes_)),
      control_(CudaResource::device_memory(runtime, sizeof(GraphRingState) + (1 + sites) * sizeof(std::uint64_t))),
      staging_(CudaResource::pinned_memory(runtime, ring_bytes_)),
      pinned_(CudaResource::pinned_memory(runtime, sizeof(Pinned))) {
  state_ = static_cast<GraphRingState*>(control_.get());
  consumed_ = reinterpret_cast<std::uint64_t*>(state_ + 1);
  grants_ = consumed_ + 1;
  std::memset(pinned_.get(), 0, sizeof(Pinned));
  require(runtime_.copy_to_device(control_.get(), pinned_.get(), sizeof(Pinned), stream_.get()), "clearing cursors");
  require(runtime_.synchronize_stream(stream_.get()), "clearing cursors");
}

GraphRecorder::~GraphRecorder() {
  // The last cursor may still be on its way into the memory that goes now; after a failure nothing comes any more.
  static_cast<void>(runtime_.synchronize_stream(stream_.get()));
}

GraphSite GraphRecorder::add_site(const DeviceTensor& tensor, const RowSelection& selection, TensorType type,
                                  std::uint64_t graph) {
  const std::scoped_lock lock(mutex_);
  if (sites_.size() >= most_sites_) {
    throw refused("no room for another tensor inside CUDA graphs; raise the limit", "graph_sites",
                  std::to_string(most_sites_));
  }
  GraphSite site;
  site.selection = selection;
  site.selection.rows = nullptr;
  site.rows = static_cast<std::size_t>(tensor.row_count);
  const auto heads = selection.heads.empty() ? static_cast<std::size_t>(tensor.source.heads) : selection.heads.size();
  site.stored = stored_rows(tensor.source, selection, type, site.rows, heads);
  site.number = sites_.size();
  if (graph_header_bytes + aligned(site.stored.output_bytes) > ring_bytes_) {
    throw refused("a tensor inside a CUDA graph needs " + std::to_string(site.stored.output_bytes) +
                      " bytes in one piece; enlarge the ring",
                  "graph_ring_bytes", std::to_string(ring_bytes_));
  }
  sites_.push_back(site);
  graphs_[graph].push_back(site.number);
  return site;
}

void GraphRecorder::record(const DeviceTensor& tensor, const RowSelection& selection, TensorType type,
                           std::uint64_t graph, CudaStream stream) {
  RowSource source = tensor.source;
  if (!selection.heads.empty()) {
    const EvenSpacing heads = spacing_of(selection.heads);
    if (!heads.even) throw refused("heads taken inside a CUDA graph must be evenly spaced", "heads", "a list");
    source.first_head = heads.first;
    source.head_step = heads.step;
    source.heads = static_cast<std::int64_t>(selection.heads.size());
  }
  const GraphSite site = add_site(tensor, selection, type, graph);
  std::uint64_t* const grant = grants_ + site.number;
  const KernelOutput output{ring_.bytes(), grant, ring_bytes_, graph_header_bytes};
  const std::uint64_t record_bytes = graph_header_bytes + aligned(site.stored.output_bytes);
  const GraphClaim claim{state_, consumed_, grant, ring_.bytes(), ring_bytes_, record_bytes, site.rows, site.number};
  require(runtime_.launch(claim, stream), "capturing a kernel that claims room");
  require(runtime_.launch(row_job(source, site.stored, site.rows, output), stream), "capturing a kernel that gathers");
  require(runtime_.launch(GraphPublish{state_, grant}, stream), "capturing a kernel that publishes");
}

GraphSite GraphRecorder::site(std::size_t number) const {
  const std::scoped_lock lock(mutex_);
  if (number >= sites_.size()) {
    throw Error(ErrorCode::device_failure, "the ring of CUDA graphs is damaged: a record names an unknown tensor",
                {.parameter = "site", .value = std::to_string(number)});
  }
  return sites_[number];
}

std::vector<GraphSite> GraphRecorder::sites_of(std::uint64_t graph) const {
  const std::scoped_lock lock(mutex_);
  const auto found = graphs_.find(graph);
  if (found == graphs_.end()) {
    throw Error(ErrorCode::invalid_argument, "no tensor was captured into that graph",
                {.parameter = "graph", .value = std::to_string(graph)});
  }
  std::vector<GraphSite> sites;
  for (const std::size_t number : found->second) sites.push_back(sites_[number]);
  return sites;
}

void GraphRecorder::announce(std::uint64_t step, CudaStream stream) {
  require(runtime_.launch(GraphStep{state_, step}, stream), "announcing a step to CUDA graphs");
}

/// Copies everything from `taken_` to `end` to the same places of pinned memory.
void GraphRecorder::stage(std::uint64_t end) {
  for (std::uint64_t position = taken_; position < end;) {
    const std::uint64_t offset = position % ring_bytes_;
    const std::uint64_t bytes = std::min(end - position, ring_bytes_ - offset);
    require(runtime_.copy_to_host(staging_.bytes() + offset, ring_.bytes() + offset, bytes, stream_.get()),
            "copying rows of CUDA graphs");
    position += bytes;
  }
  require(runtime_.synchronize_stream(stream_.get()), "copying rows of CUDA graphs");
}

std::vector<GraphRecord> GraphRecorder::fetch(std::uint64_t step) {
  auto* const pinned = static_cast<Pinned*>(pinned_.get());
  require(runtime_.copy_to_host(&pinned->state, state_, sizeof(GraphRingState), stream_.get()),
          "reading the cursor of CUDA graphs");
  require(runtime_.synchronize_stream(stream_.get()), "reading the cursor of CUDA graphs");
  const GraphRingState state = pinned->state;
  stage(state.published);

  std::vector<GraphRecord> records;
  std::uint64_t unannounced = 0;
  next_ = taken_;
  while (next_ < state.published) {
    GraphRecordHeader header{};
    const unsigned char* const place = staging_.bytes() + next_ % ring_bytes_;
    std::memcpy(&header, place, sizeof header);
    if (header.bytes == 0 || header.bytes % graph_record_alignment != 0 || header.bytes > state.published - next_) {
      throw Error(ErrorCode::device_failure, "the ring of CUDA graphs is damaged: a record of impossible size",
                  {.parameter = "bytes", .value = std::to_string(header.bytes)});
    }
    if (header.site != graph_padding) {
      if (header.step > step) break;  // the next replay has begun already; its turn comes
      const GraphSite written = site(header.site);
      const bool known = std::any_of(records.begin(), records.end(),
                                     [&](const GraphRecord& record) { return record.site == header.site; });
      if (header.step == step && !known) {
        records.push_back({header.site, reinterpret_cast<const std::byte*>(place + graph_header_bytes)});
      } else {
        unannounced += written.rows;
      }
    }
    next_ += header.bytes;
  }
  const std::scoped_lock lock(mutex_);
  unannounced_rows_ += unannounced;
  conflicting_rows_ = state.conflicting_rows;
  return records;
}

void GraphRecorder::release() {
  if (next_ == taken_) return;
  taken_ = next_;
  auto* const pinned = static_cast<Pinned*>(pinned_.get());
  pinned->consumed = taken_;
  // The next fetch waits for this stream before it writes the word again.
  require(runtime_.copy_to_device(consumed_, &pinned->consumed, sizeof taken_, stream_.get()),
          "giving room back to CUDA graphs");
}

std::uint64_t GraphRecorder::unannounced_rows() const {
  const std::scoped_lock lock(mutex_);
  return unannounced_rows_;
}

std::uint64_t GraphRecorder::conflicting_rows() const {
  const std::scoped_lock lock(mutex_);
  return conflicting_rows_;
}

}  // namespace evictsim::traces::capture
