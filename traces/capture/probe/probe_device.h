#pragma once
/// \file
/// What the probe asks of a device, as an interface: a CUDA device behind it, or recorded times in tests. Every
/// measurement does its thing `repeats` times and returns the seconds of each, in order, the first ones included.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "traces/capture/cuda/element.h"

namespace evictsim::traces::capture {

struct DeviceFacts {
  std::string name;                ///< as the driver calls it
  std::string compute_capability;  ///< for example "9.0"
  std::string software;            ///< versions of driver and runtime
  int multiprocessors = 0;
  std::int64_t total_bytes = 0;  ///< of memory, as the runtime reports it
  std::int64_t free_bytes = 0;   ///< of it, now
  std::int64_t l2_bytes = 0;
};

enum class HostMemory : std::uint8_t { pinned, pageable };
enum class Direction : std::uint8_t { host_to_device, device_to_host };

/// One decode step of attention: `lengths` are the entries of every KV head of every sequence.
struct AttentionCase {
  ElementType type = ElementType::f16;
  int group = 1;  ///< query heads per KV head
  int width = 0;
  int page_size = 0;
  std::vector<std::int32_t> lengths;

  [[nodiscard]] std::int64_t entries() const;  ///< over all heads
  [[nodiscard]] std::int64_t pages() const;    ///< over all heads, begun ones whole
  [[nodiscard]] std::int64_t longest() const;
};

/// Every call may throw Error (device_failure, out_of_memory, unsupported).
class ProbeDevice {
 public:
  virtual ~ProbeDevice() = default;
  virtual DeviceFacts facts() = 0;
  /// Other devices that this one reaches without going through the host.
  virtual std::vector<int> peers() = 0;
  virtual std::vector<double> copy(Direction direction, HostMemory memory, std::size_t bytes, int repeats) = 0;
  virtual std::vector<double> copy_to_peer(int peer, std::size_t bytes, int repeats) = 0;
  virtual std::vector<double> read_memory(std::size_t bytes, int repeats) = 0;
  virtual std::vector<double> attend(const AttentionCase& step, int repeats) = 0;
};

/// The CUDA device of that number. Throws Error (unsupported) in a build without CUDA, on a machine without a driver or
/// device, and (invalid_argument) for a number that no device has.
std::unique_ptr<ProbeDevice> open_probe_device(int device);

}  // namespace evictsim::traces::capture
