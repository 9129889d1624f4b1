#pragma once
/// \file
/// The one exception type of evictsim. It lives in the lowest folder so that every library can throw it.
/// Libraries throw it and never print or exit; executables turn it into one line and an exit status.

#include <stdexcept>
#include <string>

namespace evictsim {

/// What went wrong. The set is closed: a new kind of failure gets a new line here.
enum class ErrorCode {
  file_not_found,       ///< the path does not exist
  permission_denied,    ///< the path exists but may not be read or written
  io_failure,           ///< the operating system refused a read, write, sync or rename
  not_a_trace,          ///< not an HDF5 file, a damaged one, or one of another format
  unsupported_version,  ///< written by a newer version of the format
  missing_data,         ///< a required attribute or dataset is absent
  wrong_type,           ///< an attribute or dataset has another type
  wrong_shape,          ///< a dataset has another rank or extent
  invalid_value,        ///< a stored value breaks a rule of the format
  checksum_mismatch,    ///< a shard differs from what its manifest says
  invalid_argument,     ///< a parameter given by the caller is out of its range or malformed
  unknown_name,         ///< a policy, parameter, press or dataset of that name does not exist
  missing_need,         ///< a policy needs data that the trace does not hold
  policy_failure,       ///< a policy broke its contract (too few, not finite scores)
  unsupported,          ///< valid input that this build cannot handle
  out_of_memory,        ///< a device or pinned host memory has no room left
  device_failure,       ///< a device is missing, or it or its runtime failed
  interrupted,          ///< stopped on request
};

/// The stable lower-case name of a code, for example "missing_data".
const char* to_string(ErrorCode code) noexcept;

/// Where it went wrong; empty fields are left out of the message.
struct ErrorContext {
  std::string file;
  std::string dataset;    ///< path of a dataset, group or attribute inside the file
  std::string parameter;  ///< an option or policy parameter
  std::string value;      ///< what was found
};

/// One failure: `what()` is one line that says what, where, and what would be right.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message, ErrorContext context = {});

  [[nodiscard]] ErrorCode code() const noexcept { return code_; }
  [[nodiscard]] const ErrorContext& context() const noexcept { return context_; }
  /// The message without its context.
  [[nodiscard]] const std::string& message() const noexcept { return message_; }

 private:
  ErrorCode code_;
  std::string message_;
  ErrorContext context_;
};

}  // namespace evictsim
