;;; Lets guix-daemon of a Guix System download by fetch.
;;;
;;; In the operating-system declaration:
;;;
;;;   (load "/path/to/fetch-service.scm")
;;;   ...
;;;   (services (modify-services %base-services
;;;               (guix-service-type config => (with-fetch config))))

(use-modules (gnu services base)
             (srfi srfi-1))

(define* (with-fetch config
                     #:key
                     ;; A static binary needs no package; one that is dynamic needs a store item of its own.
                     (fetch "/usr/local/bin/fetch")
                     ;; What fetch hands everything to that is no download. Not what `guix` on anybody's PATH is.
                     (guix "/run/current-system/profile/bin/guix")
                     ;; Folders and media that builds may use.
                     (media '()))
  "Return CONFIG, a <guix-configuration>, with FETCH as the program that the
daemon runs."
  (define ours
    (append (list (string-append "GUIX=" fetch)
                  (string-append "FETCH_GUIX=" guix))
            (if (null? media)
                '()
                (list (string-append "FETCH_MEDIA=" (string-join media ":"))))))

  (define (replaced? entry)
    (any (lambda (prefix) (string-prefix? prefix entry))
         '("GUIX=" "FETCH_GUIX=" "FETCH_MEDIA=")))

  (guix-configuration
   (inherit config)
   (environment (append ours
                        (remove replaced?
                                (guix-configuration-environment config))))))
